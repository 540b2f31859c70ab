"""What tells a version of a file from another: its size, and what a server says of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TELLING = (
    "blobid",
    "checksum",
    "contentmd5",
    "created",
    "digest",
    "etag",
    "generation",
    "lastmodified",
    "md5",
    "mtime",
    "versionid",
    "version",
)
"""Names of what changes with a file's content, in small letters and nothing between them."""


@dataclass(frozen=True, slots=True)
class FileVersion:
    """What is known of a version; nothing but the size where a server tells of nothing else."""

    num_bytes: int
    told: str = ""

    def __str__(self) -> str:
        return ", ".join(filter(None, (f"{self.num_bytes:,} bytes", self.told)))

    @classmethod
    def of(cls, found: Mapping[Any, Any], num_bytes: int) -> FileVersion:
        """Return the version of a file from what a client says of it."""
        told = {}
        for key, value in found.items():
            name = re.sub("[^a-z0-9]", "", str(key).lower())
            if name in _TELLING and value is not None:
                told[name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return cls(num_bytes, ", ".join(f"{name} {value}" for name, value in sorted(told.items())))
