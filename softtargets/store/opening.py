"""Finding the manifest of a finished store, or saying what is there instead."""

from __future__ import annotations

from softtargets.errors import StoreError
from softtargets.places.directory import Directory
from softtargets.places.place import Place
from softtargets.places.ranges import check_size
from softtargets.store.manifest import MANIFEST_BYTES, MANIFEST_NAME, Manifest, parse_manifest
from softtargets.store.shard_table_file import ShardTableFile

PULL_NAME = ".pull"
"""Directory within a store's, where what is pulled from the Hub arrives."""


def find_manifest(place: Place) -> Manifest:
    """Return the manifest of the store in a place.

    Raises:
        StoreError: there is no finished store, or the place cannot be reached.
        FormatError: its manifest is of an unknown version or malformed.
        LimitError: its manifest is larger than it is trusted to be.
        CorruptionError: its manifest was edited.
    """
    where = place.where(MANIFEST_NAME)
    MANIFEST_BYTES.check(where, place.size(MANIFEST_NAME) or 0)
    content = place.get(MANIFEST_NAME)
    if content is None:
        raise _no_manifest(place)
    return read_manifest(place, content)


def read_manifest(place: Place, content: bytes) -> Manifest:
    """Return a manifest of a known content, with the table of shards beside it if it has one.

    Raises:
        FormatError: it is of an unknown version or malformed, or the table is.
        LimitError: the table is larger than it is trusted to be.
        CorruptionError: it was edited, or the table is missing or another.
        StoreError: the place cannot be reached.
    """

    def read_table(table: ShardTableFile) -> bytes | None:
        check_size(place.where(table.path), table.num_bytes, place.size(table.path))
        return place.get(table.path, table.sha256)

    return parse_manifest(content, place.where(MANIFEST_NAME), read_table)


def _no_manifest(place: Place) -> StoreError:
    """Return the error of a place where no finished store is."""
    root = place.root if isinstance(place, Directory) else None
    if root is None:
        found = "none"
        next_step = f"Check the URL; a store is copied there as it is, {MANIFEST_NAME} last."
    elif (root / "work").is_dir():
        found = "an unfinished build"
        next_step = "Run the same 'softtargets build' command again to finish it."
    elif (root / PULL_NAME).is_dir():
        found = "an unfinished pull"
        next_step = "Run the same 'softtargets pull' command again to finish it."
    else:
        found = "a directory without one" if root.is_dir() else "no such directory"
        next_step = "Check the path, or make a store with 'softtargets build'."
    return StoreError(
        str(place),
        expected=f"a store, which is a directory with a {MANIFEST_NAME}",
        found=found,
        next_step=next_step,
    )
