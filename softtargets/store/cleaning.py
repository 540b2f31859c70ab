"""Removing what dead processes left in the place of a store, and nothing else.

A shard goes only if the manifest, or the record of its unit, names another. So one that a process
is about to record stays. What it would take to go on with a build stays too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from softtargets.places.leftovers import Leftovers
from softtargets.places.open_place import StorePath, place_to_write
from softtargets.places.place import LockGoneError, Place
from softtargets.store.leases import Leases
from softtargets.store.manifest import MANIFEST_NAME, Manifest
from softtargets.store.opening import read_manifest
from softtargets.store.request import read_identity, request_text
from softtargets.store.shard_table_file import other_tables
from softtargets.store.unit_records import UnitRecords
from softtargets.store.work_files import (
    LEFTOVERS,
    LOCK,
    NAMED_BY_CONTENT,
    REQUEST,
    WORK,
    WORK_DIRECTORIES,
    WORKERS,
    WORKERS_LOCK,
    lease_path,
    windows_of,
)
from softtargets.store.workplace import Workplace

_LAST = (LOCK, REQUEST)


def clean_store(output: StorePath, *, dry_run: bool = False) -> list[str]:
    """Remove what dead processes left where a store is, or is being built; return the paths.

    In an object store, processes that may be dead are watched for half a minute.

    Args:
        output: the store's directory or URL, or its place.
        dry_run: remove nothing.

    Raises:
        StoreError: there is no store and none is being built, or the place refused.
        BusyError: a process builds in the directory.
    """
    place = place_to_write(output)
    place.check_writable()
    identity = read_identity(place)
    with _held(place):
        content = place.get(MANIFEST_NAME)
        if content is None:
            found = _of_build(place, identity)
        else:
            found = _of_store(place, read_manifest(place, content))
        paths = sorted(set(found), key=lambda path: (path in _LAST, path))
        if not dry_run:
            _remove(place, paths)
    return paths


def _remove(place: Place, paths: Sequence[str]) -> None:
    """Remove files, and the directories of a build that are empty then."""
    # A claim goes after the windows of its unit: see `Workplace.clean`.
    claims = [path for path in paths if windows_of(path) is not None]
    place.delete_all([path for path in paths if path not in _LAST and windows_of(path) is None])
    place.delete_all(claims)
    for path in _LAST:
        if path in paths:
            place.delete(path)
    for directory in WORK_DIRECTORIES * any(path.startswith("work/") for path in paths):
        place.remove_directory(directory)


@contextmanager
def _held(place: Place) -> Iterator[None]:
    """Keep builds out of a directory that one was begun in; elsewhere they may go on."""
    with ExitStack() as locks:
        if place.has_locks and place.size(REQUEST) is not None:
            with suppress(LockGoneError):  # The build ended just now.
                locks.enter_context(place.lock(LOCK))
                locks.enter_context(place.lock(WORKERS_LOCK))
        yield


def _of_store(place: Place, manifest: Manifest) -> Iterator[str]:
    """Find what was left beside a store that is committed."""
    yield from _superseded(place, dict(enumerate(manifest.shards.paths)))
    yield from _files(place, ("", "shards"), LEFTOVERS)
    if manifest.shard_table is not None:
        yield from other_tables(place, manifest.shard_table)
    # Without a request a directory `work` is someone's own. In an object store it is of a process
    # that was thought dead, and went on after the commit.
    if not place.has_locks or place.get(REQUEST) == request_text(manifest.identity):
        yield from _files(place, WORK_DIRECTORIES, WORK)


def _of_build(place: Place, identity: Mapping[str, Any]) -> Iterator[str]:
    """Find what was left in a build that is not done."""
    left = Leases(place).left() if not place.has_locks and place.list(WORKERS) else []
    done = UnitRecords(Workplace(place, identity)).all()
    yield from _superseded(place, {unit: entry.path for unit, entry in done.items()})
    if place.has_locks:
        yield from _files(place, (*WORK_DIRECTORIES, "shards", ""), LEFTOVERS)
    kept = {lease_path(unit) for unit in done}
    yield from (path for path in left if path not in kept)


def _superseded(place: Place, named: Mapping[int, str]) -> Iterator[str]:
    """Find shards of units of which others are named."""
    for path in place.list("shards"):
        found = NAMED_BY_CONTENT.fullmatch(path)
        if found is not None and named.get(int(found[1]), path) != path:
            yield path


def _files(place: Place, directories: Sequence[str], own: re.Pattern[str]) -> Iterator[str]:
    for path in Leftovers(place=place, directories=directories).paths():
        if own.fullmatch(path) and not path.endswith("/"):
            yield path
