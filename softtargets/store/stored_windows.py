"""The windows of a store, read by row group, by place in the order of the corpus, or by id."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from softtargets.errors import InputError
from softtargets.places.place import Place
from softtargets.places.ranges import PlainFile
from softtargets.store.manifest import Manifest
from softtargets.store.row import Row
from softtargets.store.row_group_table import RowGroupRef, RowGroupTable
from softtargets.store.shard_reader import ShardReader
from softtargets.window import Window


class StoredWindows:
    """The windows that a manifest lists, and how they are found.

    Args:
        location: the place with the files.
        manifest: of the store.
    """

    def __init__(self, location: Place, manifest: Manifest) -> None:
        self.location = location
        self.manifest = manifest
        self.targets = manifest.targets
        self.fingerprint = manifest.fingerprint
        # Of which shards the footer was checked, and which of their row groups. Whenever they are
        # read, their bytes are compared with the manifest's hashes.
        self._checked: dict[int, set[int]] = {}

    def __len__(self) -> int:
        return self.manifest.shards.num_windows

    @property
    def num_positions(self) -> int:
        """Return the number of targets."""
        return self.manifest.shards.num_positions

    @property
    def num_bytes(self) -> int:
        """Return the size of all shards."""
        return self.manifest.shards.num_bytes

    def check_cache(self, num_row_groups: int) -> None:
        """Check that the cache, if there is one, holds so many row groups with their footers.

        Raises:
            InputError: its limit is too small; the message says how much is needed.
        """
        needed = min(num_row_groups * self.manifest.shards.largest_read, self.num_bytes)
        what = "the largest row group" if num_row_groups == 1 else f"{num_row_groups} row groups"
        self.location.check_cache(needed, what)

    @cached_property
    def row_groups(self) -> RowGroupTable:
        """Return every row group in the order of the corpus; known without reading a shard."""
        return self.manifest.shards.row_groups

    def open_shard(self, shard: int, content: bytes | None = None) -> ShardReader:
        """Open one shard for reading, or its content if that was read already.

        Raises:
            CorruptionError, FormatError or IdentityError: it is not what was committed.
            StoreError: the place cannot be reached.
        """
        entry = self.manifest.shards[shard]
        if content is None:
            file = self.location.open(entry.path, entry.num_bytes, self.fingerprint)
        else:
            where = self.location.where(entry.path)
            file = PlainFile.of_content(where, content, entry.num_bytes)
        reader = ShardReader(
            file,
            entry,
            self.targets,
            self.fingerprint,
            checked=self._checked.get(shard),
        )
        self._checked.setdefault(shard, reader.checked)
        return reader

    def read_row_group(self, ref: RowGroupRef) -> list[Window]:
        """Read the windows of a row group.

        Raises:
            CorruptionError, FormatError or IdentityError: it is not what was committed.
        """
        with self.open_shard(ref.shard) as shard:
            return self._pick(shard.read_row_group(ref.group), ref)

    def read_rows(self, ref: RowGroupRef) -> list[Row]:
        """Read the rows of a row group: its windows as they are stored, to be batched.

        Raises:
            CorruptionError, FormatError or IdentityError: it is not what was committed.
        """
        with self.open_shard(ref.shard) as shard:
            return self._pick(shard.read_rows(ref.group), ref)

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the names of the input files that windows are from, in the order of the corpus.

        The footers are read, and row groups with windows of several files; no others.
        """
        names, numbers = self._sources
        return tuple(names[number] for number in np.unique(numbers).tolist())

    def source_windows(self) -> dict[str, int]:
        """Return how many windows are from each of `sources`; reads what those read."""
        names, numbers = self._sources
        counts = np.bincount(numbers, minlength=len(names))
        return {name: int(count) for name, count in zip(names, counts, strict=True) if count}

    def __iter__(self) -> Iterator[Window]:
        return self.windows()

    def windows(self, start: int = 0, stop: int | None = None) -> Iterator[Window]:
        """Yield the windows at places [start, stop) in the order of the corpus.

        Only the row groups they lie in are read.

        Raises:
            InputError: the range is not within the store.
            CorruptionError, FormatError or IdentityError: a shard is not what was committed.
        """
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise InputError(
                "Store.windows",
                expected=f"0 <= start <= stop <= {len(self)}",
                found=f"start {start}, stop {stop}",
                next_step="Pass places within the store; len(store) is the number of windows.",
            )
        return self._windows(start, stop) if start < stop else iter(())

    def _windows(self, start: int, stop: int) -> Iterator[Window]:
        numbers = range(self.row_groups.at(start), self.row_groups.at(stop - 1) + 1)
        wanted = (self.row_groups[number] for number in numbers)
        for shard, refs in groupby(wanted, key=lambda ref: ref.shard):
            with self.open_shard(shard) as reader:
                for ref in refs:
                    first = max(0, start - ref.first_window)
                    windows = self._pick(reader.read_row_group(ref.group), ref)
                    yield from windows[first : stop - ref.first_window]

    def _pick(self, windows: list[Any], ref: RowGroupRef) -> list[Any]:  # noqa: ARG002
        """Return those of a row group that are the store's; all, unless it is a view."""
        return windows

    def __contains__(self, window_id: object) -> bool:
        return isinstance(window_id, str) and self._find(window_id) is not None

    def __getitem__(self, window_id: str) -> Window:
        """Return a window by its id, reading its row group only.

        Raises:
            KeyError: no window has this id.
        """
        place = self._find(window_id)
        if place is None:
            raise KeyError(window_id)
        ref = self.row_groups[self.row_groups.at(place)]
        with self.open_shard(ref.shard) as shard:
            return shard.read_window(ref.group, place - ref.first_window)

    def window_ids(self, places: npt.NDArray[np.int64] | None = None) -> list[str]:
        """Return the ids of the windows at some places in the order of the corpus; by default all.

        The ids of the whole store are read when they are first needed, and kept.
        """
        ids = self._window_ids if places is None else self._window_ids[places]
        return [window_id.decode() for window_id in ids.tolist()]

    def ids_beginning(self, prefix: str, most: int) -> list[str]:
        """Return at most so many ids, sorted, of windows whose ids begin like this."""
        ids, places = self._window_ids, self._sorted_places
        key = prefix.encode()
        first = int(np.searchsorted(ids, key, sorter=places))
        found = ids[places[first : first + most]].tolist()
        return [one.decode() for one in found if one.startswith(key)]

    def _find(self, window_id: str) -> int | None:
        ids, places = self._window_ids, self._sorted_places
        key = window_id.encode()
        at = int(np.searchsorted(ids, key, sorter=places))
        return int(places[at]) if at < len(ids) and ids[places[at]] == key else None

    @cached_property
    def _sorted_places(self) -> npt.NDArray[np.int64]:
        """Return the places of all windows, sorted by their ids."""
        return np.argsort(self._window_ids, kind="stable")

    @cached_property
    def _sources(self) -> tuple[tuple[str, ...], npt.NDArray[np.int32]]:
        """Return the sources as they first occur, and of every window the number of its own."""
        numbers: dict[str, int] = {}
        runs: list[tuple[int, int]] = []
        for shard in range(len(self.manifest.shards)):
            with self.open_shard(shard) as reader:
                for source, num_windows in reader.read_sources():
                    runs.append((numbers.setdefault(source, len(numbers)), num_windows))
        own, counts = np.array(runs).T
        return tuple(numbers), np.repeat(own.astype(np.int32), counts)

    @cached_property
    def _window_ids(self) -> npt.NDArray[np.bytes_]:
        """Return all window ids in the order of the corpus."""
        ids = []
        for shard in range(len(self.manifest.shards)):
            with self.open_shard(shard) as reader:
                ids.append(reader.read_window_ids())
        return np.concatenate(ids)

    def _documents(self) -> Iterator[list[tuple[str, str]]]:
        """Yield, by row group, (source, document) of the first document of each window."""
        for shard, refs in groupby(self.row_groups, key=lambda ref: ref.shard):
            with self.open_shard(shard) as reader:
                for ref in refs:
                    yield self._pick(reader.read_documents(ref.group), ref)
