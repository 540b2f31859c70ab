"""The order of an epoch and who gets which part of it: pure functions, no I/O.

Row groups are put in random order and taken in blocks; the windows of a block are then put in
random order. So a reader holds a block or two in memory, and the order depends on the store's
layout, the seed and the epoch alone, never on ranks, workers or what was read before.

A place is a number below the number of windows: where a window stands in the order of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Row groups that are read together, and the order in which their windows are delivered."""

    first: int
    """Place of its first window."""
    row_groups: Places
    """Their numbers in the order of the corpus."""
    members: Places
    """For each place, which of the row groups its window is in."""
    rows: Places
    """And which of that row group's windows it is."""

    def __len__(self) -> int:
        return len(self.rows)


class EpochOrder:
    """The order of one epoch. Any place of it is found without going through those before.

    Args:
        num_windows: of each row group, in the order of the corpus.
        shuffle: random order; otherwise that of the corpus.
        seed: of the order, with the epoch.
        epoch: which one.
        block_groups: how many row groups are shuffled together; None for all, which is a uniform
            permutation of all windows.
        store: number of the store among those of a mixture.
    """

    def __init__(
        self,
        num_windows: Places,
        *,
        shuffle: bool,
        seed: int,
        epoch: int,
        block_groups: int | None,
        store: int = 0,
    ) -> None:
        self._shuffle = shuffle
        self._key = (seed, epoch, 0, store) if store else (seed, epoch)
        num_groups = len(num_windows)
        self._groups = permutation(num_groups, self._key) if shuffle else np.arange(num_groups)
        self._num_windows = num_windows[self._groups]
        self._block_groups = num_groups if block_groups is None else block_groups
        ends = np.concatenate([[0], np.cumsum(self._num_windows)])
        # Of every block, and where the last one ends.
        self._starts = np.append(ends[: -1 : self._block_groups], ends[-1])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def blocks(self, start: int = 0) -> Iterator[Block]:
        """Yield the blocks from the one that a place lies in."""
        if start < len(self):
            number = int(np.searchsorted(self._starts, start, side="right")) - 1
            for at in range(number, len(self._starts) - 1):
                yield self._block(at)

    def _block(self, number: int) -> Block:
        chosen = slice(number * self._block_groups, (number + 1) * self._block_groups)
        sizes = self._num_windows[chosen]
        members = np.repeat(np.arange(len(sizes)), sizes)
        rows = np.arange(len(members)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        if self._shuffle:
            order = permutation(len(members), (*self._key, number + 1))
            members, rows = members[order], rows[order]
        first = int(self._starts[number])
        return Block(first=first, row_groups=self._groups[chosen], members=members, rows=rows)


def permutation(size: int, key: Sequence[int]) -> Places:
    """Return a random permutation that is a function of `size` and `key` alone.

    It sorts raw draws of Philox, which numpy keeps the same across its versions, unlike
    `Generator.permutation`.
    """
    draws = np.random.Philox(np.random.SeedSequence(key)).random_raw(size)
    return np.argsort(draws, kind="stable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The part of an epoch that one reader delivers, in steps of `size` windows.

    A step is a run of places, the same for any number of ranks with the same global batch; the
    ranks take turns in it, and the worker processes of a rank take turns in steps.
    """

    rank: int = 0
    world_size: int = 1
    worker: int = 0
    num_workers: int = 1
    size: int = 1
    """Windows of one rank in a step."""

    @property
    def global_size(self) -> int:
        """Return how many places a step has over all ranks."""
        return self.size * self.world_size

    def steps(self, start: int, stop: int) -> Iterator[Places]:
        """Yield this reader's places of each of its steps from `start` that begin below `stop`.

        Some of the last may lie above it.
        """
        own = self.rank + self.world_size * np.arange(self.size)
        first, stride = start + self.worker * self.global_size, self.num_workers * self.global_size
        for at in range(first, stop, stride):
            yield at + own

    def own(self, places: Places, start: int, stop: int) -> Places:
        """Return which of some places are in this reader's steps from `start`."""
        at = places - start
        is_own = (places >= start) & (places < stop) & (at % self.world_size == self.rank)
        is_own &= at // self.global_size % self.num_workers == self.worker
        own: Places = places[is_own]
        return own


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffleQuality:
    """How far an order is from that of the corpus, beside that of a uniform permutation."""

    same_row_group: float
    """Share of neighbours in the order that come from the same row group."""
    ideal_same_row_group: float
    mean_displacement: float
    """Mean distance between a window's place and where it stands in the corpus, as a share of the
    number of windows; a third is ideal."""


def shuffle_quality(groups: Places, rows: Places, num_windows: Places) -> ShuffleQuality:
    """Measure an order.

    Args:
        groups: row group of the window at each place.
        rows: and which of its windows it is.
        num_windows: of each row group, in the order of the corpus.
    """
    corpus_places = (np.cumsum(num_windows) - num_windows)[groups] + rows
    total = len(groups)
    pairs = max(1, total - 1)
    return ShuffleQuality(
        same_row_group=float((groups[1:] == groups[:-1]).sum() / pairs),
        ideal_same_row_group=float((num_windows / max(1, total) * (num_windows - 1) / pairs).sum()),
        mean_displacement=float(np.abs(corpus_places - np.arange(total)).mean() / max(1, total)),
    )
