"""The fingerprint of a store: a hash of its identity that every language computes alike.

From format 1.3 on the hash is of the canonical JSON of RFC 8785. Older stores hashed what Python's
`json` writes, and keep the fingerprint that they were written with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import rfc8785

from softtargets.errors import InputError
from softtargets.store.versions import is_canonical


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the identity's canonical JSON, in hexadecimal.

    The `format_version` in the identity decides what is canonical. An object without one, such as
    the choice of a view, is hashed in the older way.

    Raises:
        InputError: the identity has a number that other languages read as another.
    """
    if not is_canonical(identity.get("format_version")):
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
    return hashlib.sha256(canonical_json(identity)).hexdigest()


def canonical_json(data: Mapping[str, Any]) -> bytes:
    """Return the canonical JSON of RFC 8785.

    Raises:
        InputError: there is a number that other languages read as another.
    """
    try:
        return rfc8785.dumps(dict(data))
    except rfc8785.CanonicalizationError as error:
        raise InputError(
            "the store's identity",
            expected="what RFC 8785 can write: finite numbers, and whole ones within 2^53 - 1",
            found=f"{error}",
            next_step="Take a smaller number; seeds and sizes are the only large ones.",
        ) from error
