"""Rows of a row group, some at a time.

What is computed for all of them together would be in memory that was never touched before, which
costs more than to compute it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence


def blocks_of_rows(bounds: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Yield the first row of each block and the one after its last.

    Args:
        bounds: where the rows begin, and the last one ends.
        most: how long a block may be, unless it is a single row.
    """
    first = 0
    while first < len(bounds) - 1:
        last = max(first + 1, bisect_right(bounds, bounds[first] + most) - 1)
        yield first, last
        first = last
