"""Files of a store beside its shards, each with an entry in the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from softtargets.errors import CorruptionError, StoreError
from softtargets.hashes import hash_bytes
from softtargets.places.place import Place
from softtargets.places.ranges import check_size


@dataclass(frozen=True, slots=True, kw_only=True)
class SideFile:
    """A file beside the shards: the teacher's output head, or its vocabulary."""

    num_bytes: int
    sha256: str
    """Of the file; what the identity has is a hash of the content, whoever wrote it."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SideFile:
        """Parse the JSON form; fields of a later release are left out."""
        return cls(num_bytes=data["num_bytes"], sha256=data["sha256"])


def read_side_file(place: Place, name: str, entry: SideFile) -> bytes:
    """Return the content of a store's file, checked to be the one the manifest means.

    Raises:
        CorruptionError: it is missing or another.
        StoreError: the place cannot be reached.
    """
    where = place.where(name)
    check_size(where, entry.num_bytes, place.size(name))
    return checked_content(where, place.get(name, entry.sha256), entry)


def checked_content(where: str, content: bytes | None, entry: SideFile) -> bytes:
    """Return a file's content, checked to be the one that the manifest means.

    Raises:
        CorruptionError: it is missing or another.
    """
    if content is None or hash_bytes(content) != entry.sha256:
        raise CorruptionError(
            where,
            expected=f"{entry.num_bytes:,} bytes with SHA-256 {entry.sha256}",
            found="no file"
            if content is None
            else f"{len(content):,} bytes with {hash_bytes(content)}",
        )
    return content


def written_side_file(place: Place, path: str, what: str) -> bytes:
    """Return the content of a file that a build has written before its units.

    Raises:
        StoreError: there is none.
    """
    content = place.get(path)
    if content is None:
        raise StoreError(
            str(place),
            expected=f"the teacher's {what}, written before any unit",
            found="none",
            next_step="Run the same 'softtargets build' command again.",
        )
    return content


def commit_side_file(place: Place, name: str, content: bytes) -> SideFile:
    """Write a file to its place in the store, and return its entry in the manifest.

    Raises:
        StoreError: the system refused to write.
    """
    place.put(name, content)
    return SideFile(num_bytes=len(content), sha256=hash_bytes(content))
