"""A store: a manifest and the shards it lists, in a directory or behind a URL.

A view is some of a store's windows, read as a store of their own. Nothing is copied or written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from softtargets.errors import InputError
from softtargets.places.directory import Directory
from softtargets.places.open_place import open_place
from softtargets.places.place import Place, ReadCounts
from softtargets.store.chosen_windows import check_sources, choose_held_out
from softtargets.store.fingerprint import fingerprint_of
from softtargets.store.opening import find_manifest
from softtargets.store.output_head import OUTPUT_HEAD_NAME, decode_output_head
from softtargets.store.row_group_table import RowGroupRef, RowGroupTable
from softtargets.store.shard_reader import ShardReader
from softtargets.store.side_file import read_side_file
from softtargets.store.stored_windows import StoredWindows
from softtargets.store.vocabulary import VOCABULARY_NAME, decode_vocabulary
from softtargets.targets import HeadWeights
from softtargets.tokenizer import Vocabulary
from softtargets.window import Window

Places = npt.NDArray[np.int64]


class Store(StoredWindows):
    """A finished set of soft targets. Open it with `Store.open`.

    `len(store)` is the number of windows, `store[window_id]` one of them, and iteration gives all
    in the order of the corpus.
    """

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | Place,
        *,
        filesystem: Any = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
    ) -> Store:
        """Open a finished store for reading.

        Args:
            path: of its directory, or a URL: s3://, gs://, hf:// or another that pyarrow.fs or
                fsspec opens; or a place.
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
        place = open_place(
            path, filesystem=filesystem, cache_dir=cache_dir, cache_bytes=cache_bytes
        )
        store = cls(place, find_manifest(place))
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

    def __repr__(self) -> str:
        return (
            f"Store({str(self.location)!r}, {len(self):,} windows, "
            f"{self.num_positions:,} positions, "
            f"{self.targets.describe()}, temperatures "
            f"{list(self.targets.temperatures)}, fingerprint {self.fingerprint[:12]})"
        )

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

    def select(self, sources: Sequence[str]) -> StoreView:
        """Return a view of the windows of some input files, named as in `Window.source`.

        Reads what `sources` reads, once for the store.

        Raises:
            InputError: none is named, or one of which there is no window; the message lists them.
            CorruptionError, FormatError or IdentityError: a shard is not what was committed.
        """
        names, numbers = self._sources
        wanted = sorted(set(sources))
        check_sources(wanted, self.sources, str(self.location))
        chosen = np.isin(numbers, [names.index(source) for source in wanted])
        choice = {"operation": "select", "sources": wanted}
        return StoreView(self, np.flatnonzero(chosen), choice)

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
        is_held = choose_held_out(self._documents(), held_out, seed, str(self.location))
        choice = {"operation": "split", "held_out": held_out, "seed": seed}
        return (
            StoreView(self, np.flatnonzero(~is_held), {**choice, "part": "train"}),
            StoreView(self, np.flatnonzero(is_held), {**choice, "part": "held_out"}),
        )

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


class StoreView(Store):
    """Some windows of a store, in its order. Make it with `Store.select` or `Store.split`.

    It is read like the store: by `SoftTargetDataset`, by id, and in order. Row groups without a
    chosen window are not read; of the others all is read and decoded. The fingerprint is a function
    of the store's and of the choice, so that training is not resumed on another choice. `root` and
    `manifest` are those of the store.

    Args:
        parent: the store, or a view of it.
        places: of the chosen windows in the parent, rising.
        choice: what was chosen, as JSON.
    """

    def __init__(self, parent: Store, places: Places, choice: Mapping[str, Any]) -> None:
        super().__init__(parent.location, parent.manifest)
        self.fingerprint = fingerprint_of({"store": parent.fingerprint, "choice": choice})
        self._whole: Store = parent
        self._choices: tuple[Mapping[str, Any], ...] = (choice,)
        self._places = places
        if isinstance(parent, StoreView):
            self._whole = parent._whole
            self._choices = *parent._choices, choice
            self._places = parent._places[places]

    def __repr__(self) -> str:
        return (
            f"StoreView({str(self.location)!r}, {len(self):,} of {len(self._whole):,} windows, "
            f"{list(self._choices)}, fingerprint {self.fingerprint[:12]})"
        )

    def __len__(self) -> int:
        return len(self._places)

    @property
    def num_positions(self) -> int:
        """Return the number of targets; row groups that are chosen in part are read for it."""
        return sum(self._num_positions(ref) for ref in self.row_groups)

    def _num_positions(self, ref: RowGroupRef) -> int:
        whole = self._row_group(ref)
        if ref.num_windows == whole.num_windows:
            return self.manifest.shards[ref.shard].row_groups[ref.group].num_positions
        return sum(len(window.packed) for window in self.read_row_group(ref))

    @property
    def num_bytes(self) -> int:
        """Return how much is read in an epoch: the size of all row groups with a chosen window."""
        shards = self.manifest.shards
        return sum(shards[ref.shard].row_groups[ref.group].num_bytes for ref in self.row_groups)

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """Return what the token ids mean, as the store does."""
        return self._whole.vocabulary

    @cached_property
    def row_groups(self) -> RowGroupTable:
        """Return the row groups with a chosen window, and how many they have."""
        whole = self._whole.row_groups
        numbers = np.searchsorted(whole.first_windows, self._places, side="right") - 1
        chosen, counts = np.unique(numbers, return_counts=True)
        return RowGroupTable(
            shards=whole.shards[chosen], groups=whole.groups[chosen], num_windows=counts
        )

    def open_shard(self, shard: int, content: bytes | None = None) -> ShardReader:
        """Open one shard for reading, with all its windows, or its content if that was read.

        Raises:
            CorruptionError, FormatError or IdentityError: it is not what was committed.
        """
        return self._whole.open_shard(shard, content)

    def __getitem__(self, window_id: str) -> Window:
        """Return a window by its id, reading its row group only.

        Raises:
            KeyError: no chosen window has this id.
        """
        if window_id not in self:
            raise KeyError(window_id)
        return self._whole[window_id]

    def _pick(self, windows: list[Any], ref: RowGroupRef) -> list[Any]:
        own = self._places[ref.first_window : ref.first_window + ref.num_windows]
        rows = own - self._row_group(ref).first_window
        return [windows[row] for row in rows.tolist()]

    def _row_group(self, ref: RowGroupRef) -> RowGroupRef:
        """Return where the whole store has a row group of this view."""
        whole = self._whole.row_groups
        return whole[whole.at(int(self._places[ref.first_window]))]

    @cached_property
    def _window_ids(self) -> npt.NDArray[np.bytes_]:
        return self._whole._window_ids[self._places]

    @cached_property
    def _sources(self) -> tuple[tuple[str, ...], npt.NDArray[np.int32]]:
        names, numbers = self._whole._sources
        return names, numbers[self._places]
