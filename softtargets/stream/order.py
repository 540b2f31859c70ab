"""The order of an epoch and who gets which part of it: pure functions, no I/O.

Row groups are put in random order and taken in blocks; the windows of a block are then put in
random order. So a reader holds one block in memory, and the order depends on the store's layout,
the seed and the epoch alone, never on ranks, workers or what was read before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from softtargets.store.store import RowGroupRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Row groups that are read together, and the order in which their windows are delivered."""

    row_groups: tuple[RowGroupRef, ...]
    order: npt.NDArray[np.int64]
    """Places in the concatenation of the row groups."""


def epoch_blocks(
    row_groups: Sequence[RowGroupRef], *, shuffle: bool, seed: int, epoch: int, block_groups: int
) -> Iterator[Block]:
    """Yield the blocks of an epoch, each of at most `block_groups` row groups."""
    groups = np.arange(len(row_groups))
    if shuffle:
        groups = permutation(len(row_groups), (seed, epoch))
    for number, start in enumerate(range(0, len(groups), block_groups)):
        members = tuple(row_groups[group] for group in groups[start : start + block_groups])
        num_windows = sum(group.num_windows for group in members)
        order = np.arange(num_windows)
        if shuffle:
            order = permutation(num_windows, (seed, epoch, number + 1))
        yield Block(row_groups=members, order=order)


def permutation(size: int, key: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return a random permutation that is a function of `size` and `key` alone.

    It sorts raw draws of Philox, which numpy keeps the same across its versions, unlike
    `Generator.permutation`.
    """
    draws = np.random.Philox(np.random.SeedSequence(key)).random_raw(size)
    return np.argsort(draws, kind="stable")


def is_mine(place: int, *, share: int, num_shares: int) -> bool:
    """Return whether the window at a place of the epoch goes to this share of the readers."""
    return place % num_shares == share
