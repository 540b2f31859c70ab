"""What is being built in a place, as its build says of itself before anything else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from softtargets.errors import IdentityError, StoreError
from softtargets.places.place import Place
from softtargets.store.fingerprint import fingerprint_of
from softtargets.store.json_object import parse_object
from softtargets.store.json_schemas import check_schema
from softtargets.store.manifest import MANIFEST_NAME, parse_identity
from softtargets.store.versions import WRITTEN_VERSIONS, check_version
from softtargets.store.work_files import REQUEST


def request_text(identity: Mapping[str, Any]) -> bytes:
    """Return the content of the request of a build."""
    request = {
        "format_version": identity["format_version"],
        "fingerprint": fingerprint_of(identity),
        "identity": identity,
    }
    return json.dumps(request, indent=1).encode()


def read_request_of(place: Place) -> Mapping[str, Any] | None:
    """Return the identity that the build in a directory was begun with; None if none was.

    Raises:
        StoreError: the file is none that a build wrote.
        IdentityError: another release began it.
    """
    content, where = place.get(REQUEST), place.where(REQUEST)
    if content is None:
        return None
    request = parse_object(content, where)
    version = check_version(request.get("format_version"), where)
    if version not in WRITTEN_VERSIONS:
        raise IdentityError(
            where,
            expected=f"a build begun in format {' or '.join(WRITTEN_VERSIONS)}",
            found=f"one of {version}",
            next_step="Finish it with the release of softtargets that began it, or choose "
            "another output directory; nothing in this one was touched.",
        )
    identity: Mapping[str, Any] = request.get("identity", {})
    check_schema(identity, "identity", where, field="identity")
    if request.get("fingerprint") != fingerprint_of(identity):
        raise StoreError(
            where,
            expected=f"the hash of the identity, {fingerprint_of(identity)}, in field fingerprint",
            found="another",
            next_step="No build wrote this file, so nothing in the directory was touched. Choose "
            "another output directory.",
        )
    return identity


def read_identity(place: Place) -> Mapping[str, Any]:
    """Return the identity of the store that a place holds or that is being built in it.

    Raises:
        StoreError: there is none.
    """
    manifest = place.get(MANIFEST_NAME)
    if manifest is not None:
        return parse_identity(manifest, place.where(MANIFEST_NAME))[0]
    request = read_request_of(place)
    if request is None:
        raise StoreError(
            str(place),
            expected="a store, or a directory in which one is being built",
            found="neither",
            next_step="Run softtargets build.",
        )
    return request
