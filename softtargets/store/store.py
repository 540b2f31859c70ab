"""A store: a manifest and the shards it lists, in a directory or behind a URL."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from softtargets.errors import InputError, StoreError
from softtargets.store.location import (
    Directory,
    Location,
    PlainFile,
    ReadCounts,
    open_location,
)
from softtargets.store.manifest import MANIFEST_BYTES, MANIFEST_NAME, Manifest, parse_manifest
from softtargets.store.output_head import OUTPUT_HEAD_NAME, decode_output_head
from softtargets.store.row import Row
from softtargets.store.shard_reader import ShardReader
from softtargets.store.shard_table import RowGroupRef, RowGroupTable
from softtargets.store.side_file import read_side_file
from softtargets.store.vocabulary import VOCABULARY_NAME, decode_vocabulary
from softtargets.targets import HeadWeights
from softtargets.tokenizer import Vocabulary
from softtargets.window import Window

if TYPE_CHECKING:
    from softtargets.store.view import StoreView

PULL_NAME = ".pull"
"""Directory within a store's, where what is pulled from the Hub arrives."""


class Store:
    """A finished set of soft targets. Open it with `Store.open`.

    `len(store)` is the number of windows, `store[window_id]` one of them, and iteration gives all
    in the order of the corpus.
    """

    def __init__(self, location: Location, manifest: Manifest) -> None:
        self.location = location
        self.manifest = manifest
        self.targets = manifest.targets
        self.fingerprint = manifest.fingerprint
        # Of which shards the footer was checked, and which of their row groups. Whenever they are
        # read, their bytes are compared with the manifest's hashes.
        self._checked: dict[int, set[int]] = {}

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        filesystem: Any = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
    ) -> Store:
        """Open a finished store for reading.

        Args:
            path: of its directory, or a URL: s3://, gs://, hf:// or another that pyarrow.fs or
                fsspec opens.
            filesystem: of pyarrow.fs or fsspec, that `path` is in; for credentials, endpoints and
                timeouts that the URL and the environment don't say.
            cache_dir: directory on a local disk where what was read of a URL is kept; processes
                may share it, and stores.
            cache_bytes: limit of its size, 16 GiB by default.

        Raises:
            InputError: nothing opens the URL, or the cache is too small for a row group.
            StoreError: there is no finished store, or the place cannot be reached.
            FormatError: its manifest is of an unknown version or malformed.
            LimitError: its manifest is larger than it is trusted to be.
            CorruptionError: its manifest was edited.
        """
        location = open_location(
            path, filesystem=filesystem, cache_dir=cache_dir, cache_bytes=cache_bytes
        )
        where = location.where(MANIFEST_NAME)
        MANIFEST_BYTES.check(where, location.size(MANIFEST_NAME) or 0)
        content = location.read(MANIFEST_NAME)
        if content is None:
            raise _no_manifest(location)
        store = cls(location, parse_manifest(content, where))
        store.check_cache(1)
        return store

    @property
    def root(self) -> Path:
        """Return the directory of a local store.

        Raises:
            InputError: the store is behind a URL.
        """
        if not isinstance(self.location, Directory):
            raise InputError(
                "Store.root",
                expected="a store in a directory of this machine",
                found=f"{self.location}",
                next_step="str(store.location) says where a store is.",
            )
        return self.location.root

    @property
    def reads(self) -> ReadCounts:
        """Return what this process has read from a URL: cache hits, bytes, retries."""
        return self.location.counts

    def check_cache(self, num_row_groups: int) -> None:
        """Check that the cache, if there is one, holds so many row groups with their footers.

        Raises:
            InputError: its limit is too small; the message says how much is needed.
        """
        needed = min(num_row_groups * self.manifest.shards.largest_read, self.num_bytes)
        what = "the largest row group" if num_row_groups == 1 else f"{num_row_groups} row groups"
        self.location.check_cache(needed, what)

    def __repr__(self) -> str:
        return (
            f"Store({str(self.location)!r}, {len(self):,} windows, "
            f"{self.num_positions:,} positions, "
            f"{self.targets.describe()}, temperatures "
            f"{list(self.targets.temperatures)}, fingerprint {self.fingerprint[:12]})"
        )

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
            file = self.location.open(entry, self.fingerprint)
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

    def output_head(self) -> HeadWeights:
        """Read the teacher's output head, which makes logits of the feature last_hidden.

        Raises:
            InputError: the store has none.
            CorruptionError: its file is not what was committed.
        """
        schema, entry = self.targets.output_head, self.manifest.output_head
        if schema is None or entry is None:
            raise InputError(
                str(self.location),
                expected="a store with the teacher's output head",
                found=f"{self.targets.describe()}",
                next_step="Build the store with --hidden-states.",
            )
        content = read_side_file(self.location, OUTPUT_HEAD_NAME, entry)
        where = self.location.where(OUTPUT_HEAD_NAME)
        return decode_output_head(content, schema, self.targets.vocab_size, where)

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """Return what the token ids mean, read when it is first asked for.

        None where the builder had no tokenizer, and for stores of format 1.1 and before.

        Raises:
            CorruptionError: its file is not what was committed.
        """
        entry = self.manifest.vocabulary
        if entry is None:
            return None
        content = read_side_file(self.location, VOCABULARY_NAME, entry)
        return decode_vocabulary(content, self.location.where(VOCABULARY_NAME))

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

    def select(self, sources: Sequence[str]) -> StoreView:
        """Return a view of the windows of some input files, named as in `Window.source`.

        Reads what `sources` reads, once for the store.

        Raises:
            InputError: none is named, or one of which there is no window; the message lists them.
            CorruptionError, FormatError or IdentityError: a shard is not what was committed.
        """
        from softtargets.store.view import select_sources

        return select_sources(self, sources)

    def split(self, held_out: float = 0.1, seed: int = 0) -> tuple[StoreView, StoreView]:
        """Return views of the documents to train on, and of a share that is held out.

        All windows of a document go to the same part, since neighbours tell of each other; one that
        several share goes with the first of them. Which part that is, is a function of the names of
        document and input file, `held_out` and `seed`: the same in any store of the document.

        Reads every row group once, to check it, and unpacks the names of its documents: about as
        long as to read the shards from disk.

        Raises:
            InputError: the share is not between 0 and 1, or a part would be empty.
            CorruptionError, FormatError or IdentityError: a shard is not what was committed.
        """
        from softtargets.store.view import split_documents

        return split_documents(self, held_out, seed)

    def as_dataset(self) -> Any:
        """Return the windows as a `datasets.IterableDataset`, with columns that anyone reads.

        A row is a window, its columns are those of `softtargets export --to plain`. Nothing is
        written: row groups are decoded as they are asked for, and every byte is checked. They are
        the dataset's shards, which its own `shuffle`, `shard`, `state_dict` and DataLoader workers
        go by. It is for looking and for other people's trainers: lists of Python numbers are
        hundreds of times slower than `SoftTargetDataset`.

        Raises:
            InputError: the package `datasets` is not installed.
            CorruptionError, FormatError or IdentityError: the first shard is not what was
                committed; iterating raises them of the others.
        """
        from softtargets.store.iterable_dataset import as_iterable_dataset

        return as_iterable_dataset(self)

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


def _no_manifest(location: Location) -> StoreError:
    """Return the error of a place where no finished store is."""
    root = location.root if isinstance(location, Directory) else None
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
        str(location),
        expected=f"a store, which is a directory with a {MANIFEST_NAME}",
        found=found,
        next_step=next_step,
    )
