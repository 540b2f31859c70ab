"""Where rows begin among the values of a Parquet page: where their level of repetition is 0."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

_MOST_RUNS = 1000
_VARINT_BITS = 63


class Rows(NamedTuple):
    """Where rows begin among some values."""

    first: int
    last: int
    longest: int
    """Values of the longest row that begins and ends among them."""

    def after(self, before: Rows | None, at: int) -> Rows:
        """Return these, which are numbered from `at` on, and those before them."""
        if before is None:
            return Rows(at + self.first, at + self.last, self.longest)
        longest = max(before.longest, self.longest, at + self.first - before.last)
        return Rows(before.first, at + self.last, longest)


def find_rows(levels: bytes, width: int, num_values: int, *, first_alone: bool) -> Rows | None:
    """Return where rows begin among some values, as far as it is found in a bounded time.

    Args:
        levels: of repetition; 0 begins a row. Runs of one level and runs of packed ones, as Parquet
            mixes them.
        width: bits of a level, 1 to 8.
        num_values: how many there are.
        first_alone: stop at the first row that begins.
    """
    rows: Rows | None = None
    at = place = 0
    # No encoder writes more runs than values, and most far fewer.
    for _ in range(_MOST_RUNS + num_values // 8):
        if at >= num_values or place >= len(levels) or (first_alone and rows is not None):
            break
        head = shift = 0
        while True:
            byte = levels[place]
            place += 1
            head |= (byte & 127) << shift
            if byte < 128 or place == len(levels) or shift > _VARINT_BITS:
                break
            shift += 7
        num = head >> 1
        if head & 1:
            stop = place + num * width
            packed, place, num = levels[place:stop], stop, num * 8
            # What fills the last group up is no value.
            own = (_rows_of_group if num == 8 else _packed_rows)(
                packed, width, min(num, num_values - at)
            )
        else:
            num = min(num, num_values - at)
            is_start = num > 0 and levels[place : place + 1] == b"\0"
            own = Rows(0, num - 1, min(1, num - 1)) if is_start else None
            place += 1
        if own is not None:
            rows = own.after(rows, at)
        at += num
    return rows


def _packed_rows(packed: bytes, width: int, num_values: int) -> Rows | None:
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
    levels = bits[: len(bits) // width * width].reshape(-1, width)[:num_values]
    starts = np.flatnonzero(~levels.any(axis=1))
    if not len(starts):
        return None
    return Rows(int(starts[0]), int(starts[-1]), int(np.diff(starts).max(initial=0)))


_rows_of_group = lru_cache(1 << 16)(_packed_rows)
