"""Where the row groups of a store lie: what a loader shuffles and reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroupRef:
    """Where a row group lies: what the loader shuffles and reads."""

    shard: int
    group: int
    first_window: int
    """Place of its first window in the order of the corpus."""
    num_windows: int


class RowGroupTable(Sequence[RowGroupRef]):
    """Where row groups lie, in the order of the corpus.

    Args:
        shards: of each, which shard it is in.
        groups: and which of its row groups it is.
        num_windows: that it has, or that are chosen of it.
    """

    def __init__(self, *, shards: Numbers, groups: Numbers, num_windows: Numbers) -> None:
        self.shards, self.groups, self.num_windows = shards, groups, num_windows
        self.first_windows: Numbers = np.cumsum(num_windows) - num_windows

    def __len__(self) -> int:
        return len(self.num_windows)

    @overload
    def __getitem__(self, index: int) -> RowGroupRef: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[RowGroupRef, ...]: ...

    def __getitem__(self, index: int | slice) -> RowGroupRef | tuple[RowGroupRef, ...]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(*index.indices(len(self))))
        at = range(len(self))[index]
        return RowGroupRef(
            shard=int(self.shards[at]),
            group=int(self.groups[at]),
            first_window=int(self.first_windows[at]),
            num_windows=int(self.num_windows[at]),
        )

    def at(self, place: int) -> int:
        """Return the number of the row group that a window's place lies in."""
        return int(np.searchsorted(self.first_windows, place, side="right")) - 1
