"""Views: some windows of a store, read as a store of their own. Nothing is copied or written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from softtargets.errors import InputError
from softtargets.store.manifest import fingerprint_of
from softtargets.store.shard_reader import ShardReader
from softtargets.store.shard_table import RowGroupRef, RowGroupTable
from softtargets.store.store import Store
from softtargets.tokenizer import Vocabulary
from softtargets.window import Window

Places = npt.NDArray[np.int64]

_HASH_DOMAIN = "softtargets.split.v1"
_MOST_NAMED = 10


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


def select_sources(store: Store, sources: Sequence[str]) -> StoreView:
    """Return what `Store.select` promises."""
    names, numbers = store._sources
    wanted = sorted(set(sources))
    missing = [source for source in wanted if source not in store.sources]
    if missing or not wanted:
        there = [repr(source) for source in store.sources]
        more = f" and {len(there) - _MOST_NAMED} more" if len(there) > _MOST_NAMED else ""
        raise InputError(
            f"{store.location}, sources",
            expected=f"some of {', '.join(there[:_MOST_NAMED])}{more}",
            found=", ".join(repr(source) for source in missing) or "none",
            next_step="Name input files that windows are from; store.sources has all.",
        )
    chosen = np.isin(numbers, [names.index(source) for source in wanted])
    choice = {"operation": "select", "sources": wanted}
    return StoreView(store, np.flatnonzero(chosen), choice)


def split_documents(store: Store, held_out: float, seed: int) -> tuple[StoreView, StoreView]:
    """Return what `Store.split` promises."""
    if not 0 < held_out < 1:
        raise InputError(
            "Store.split, held_out",
            expected="a number between 0 and 1",
            found=f"{held_out:g}",
            next_step="0.1 holds a tenth of the documents out.",
        )
    is_chosen = _held_out(store, held_out, seed)
    num_held_out = int(is_chosen.sum())
    if not 0 < num_held_out < len(store):
        raise InputError(
            f"{store.location}, split",
            expected="documents for both parts",
            found=f"all of {len(store):,} windows in one of them, with held_out {held_out:g} and "
            f"seed {seed}",
            next_step="Pass another seed or share; the windows of a document are never parted.",
        )
    choice = {"operation": "split", "held_out": held_out, "seed": seed}
    return (
        StoreView(store, np.flatnonzero(~is_chosen), {**choice, "part": "train"}),
        StoreView(store, np.flatnonzero(is_chosen), {**choice, "part": "held_out"}),
    )


def _held_out(store: Store, held_out: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return of every window whether its first document is held out."""
    found: list[bool] = []
    for shard, refs in groupby(store.row_groups, key=lambda ref: ref.shard):
        with store.open_shard(shard) as reader:
            for ref in refs:
                documents = store._pick(reader.read_documents(ref.group), ref)
                held = {
                    (source, document_id): is_held_out(source, document_id, held_out, seed)
                    for source, document_id in set(documents)
                }
                found += [held[one] for one in documents]
    return np.array(found, np.bool_)


def is_held_out(source: str, document_id: str, held_out: float, seed: int) -> bool:
    """Return whether a document is held out: a function of its name, the share and the seed.

    The first 64 bits of a SHA-256, as a fraction of 2^64, are below the share.
    """
    text = "\0".join((_HASH_DOMAIN, str(seed), source, document_id))
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8]) < held_out * 2**64
