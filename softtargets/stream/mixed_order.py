"""The order of an epoch over one or several stores, which give windows in turns: no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from softtargets.stream.order import Block, EpochOrder, Places, permutation

LEAST_TURNS = 1024
"""Places in which every store has its share, less than two windows off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turns:
    """Some successive places of an epoch, dealt to the stores."""

    first: int
    stores: Places
    """Of each place, which store gives the window."""
    ranks: Places
    """And how many that store has given before, in these places."""
    before: Places
    """How many each store has given in the epoch before these places."""


class MixedOrder:
    """The order of one epoch over one or several stores; any place is found in constant time.

    A store's place counts its windows in its own order, all epochs from the first included.

    Args:
        num_windows: of each row group of each store.
        counts: windows that an epoch has of each store.
        shuffle: random order within a store; otherwise that of its corpus.
        seed: of the order, with the epoch.
        epoch: which one.
        block_groups: row groups of a store that are shuffled together; None for all.
    """

    def __init__(
        self,
        num_windows: Sequence[Places],
        counts: Sequence[int],
        *,
        shuffle: bool,
        seed: int,
        epoch: int,
        block_groups: int | None,
    ) -> None:
        self._num_windows = num_windows
        self._counts = np.array(counts, np.int64)
        self._shuffle, self._seed, self._epoch = shuffle, seed, epoch
        self._block_groups = block_groups
        self._size = max(LEAST_TURNS, -(-sum(counts) // min(counts))) if sum(counts) else 1
        self._turns: _Turns | None = None

    def __len__(self) -> int:
        return int(self._counts.sum())

    @property
    def num_stores(self) -> int:
        """Return how many stores give windows."""
        return len(self._num_windows)

    def at(self, place: int) -> tuple[int, int]:
        """Return which store gives the window at a place, and which place of that store it is."""
        if self.num_stores == 1:
            return 0, self._start(0) + place
        turns = self._turns_at(place)
        at = place - turns.first
        store = int(turns.stores[at])
        return store, self._start(store) + int(turns.before[store] + turns.ranks[at])

    def given(self, place: int) -> list[int]:
        """Return the places that the stores have come to before a place of the epoch."""
        if place >= len(self):
            own = self._counts
        else:
            turns = self._turns_at(place)
            before = turns.stores[: place - turns.first]
            own = turns.before + np.bincount(before, minlength=self.num_stores)
        return [self._start(store) + int(own[store]) for store in range(self.num_stores)]

    def blocks(self, store: int, start: int) -> Iterator[Block]:
        """Yield the blocks of a store's own order from the one that a place lies in, endlessly."""
        num_windows = int(self._num_windows[store].sum())
        epoch, place = divmod(start, num_windows)
        while True:
            first = epoch * num_windows
            for block in self._own_order(store, epoch).blocks(place):
                yield replace(block, first=first + block.first)
            epoch, place = epoch + 1, 0

    def windows(self, start: int, stop: int) -> tuple[Places, Places, Places]:
        """Return store, row group and row of the windows at places [start, stop)."""
        stop = min(stop, len(self))
        found = np.zeros((3, max(0, stop - start)), np.int64)
        at = start
        while at < stop:
            turns = self._turns_at(at)
            own = turns.stores[at - turns.first : stop - turns.first]
            found[0, at - start : at - start + len(own)] = own
            at += len(own)
        for store in range(self.num_stores if start < stop else 0):
            first, end = self.given(start)[store], self.given(stop)[store]
            parts = [np.zeros((2, 0), np.int64)]
            for block in self.blocks(store, first):
                if block.first >= end:
                    break
                here = slice(max(0, first - block.first), end - block.first)
                groups = block.row_groups[block.members[here]]
                parts.append(np.stack([groups, block.rows[here]]))
            found[1:, found[0] == store] = np.concatenate(parts, axis=1)
        return found[0], found[1], found[2]

    def _start(self, store: int) -> int:
        return self._epoch * int(self._counts[store])

    def _own_order(self, store: int, epoch: int) -> EpochOrder:
        return EpochOrder(
            self._num_windows[store],
            shuffle=self._shuffle,
            seed=self._seed,
            epoch=epoch,
            block_groups=self._block_groups,
            store=store,
        )

    def _turns_at(self, place: int) -> _Turns:
        number = place // self._size
        first = number * self._size
        if self._turns is None or self._turns.first != first:
            before, after = self._before(first), self._before(first + self._size)
            stores = np.repeat(np.arange(self.num_stores), after - before)
            # A key of its own: those of the stores' orders are shorter.
            key = self._seed, self._epoch, 0, 0, 0, number
            stores = stores[permutation(len(stores), key)]
            ranks = np.empty_like(stores)
            starts = np.cumsum(after - before) - (after - before)
            by_store = np.argsort(stores, kind="stable")
            ranks[by_store] = np.arange(len(stores)) - starts[stores[by_store]]
            self._turns = _Turns(first=first, stores=stores, ranks=ranks, before=before)
        return self._turns

    def _before(self, place: int) -> Places:
        """Return how many windows each store gives before a place where turns begin.

        The differences of rounded running sums: they rise with the place for every store, because
        each has a window or more in `_size` places.
        """
        total = len(self)
        sums = np.concatenate([[0], np.cumsum(self._counts)])
        return np.diff(sums * min(place, total) // total)
