"""The pieces of a corpus that no piece before them repeats, in slices that were mapped and reduced.

Where each piece is a window, slices can be cut into units apart from each other: the lengths alone
tell where a unit begins. A slice writes the units that begin in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from softtargets.capture.slice_files import SliceFiles
from softtargets.places.at_once import answers
from softtargets.targets import Bool, Int32
from softtargets.window import TokenWindow


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The units that begin in a slice."""

    first_unit: int
    num_units: int
    num_before: int
    """Pieces of the slice that are kept, and of a unit that began before it."""


@dataclass(frozen=True, kw_only=True)
class KeptPieces:
    """The pieces of all slices, without repeats, in the order of the corpus."""

    files: SliceFiles
    num_slices: int
    num_partitions: int

    @property
    def num_repeats(self) -> int:
        """Return how many pieces are repeats."""
        return sum(num for found in self._repeats.values() for _, _, num in found)

    def read(self, first_slice: int = 0) -> Iterator[TokenWindow]:
        """Yield the pieces of a slice and of those after it.

        Raises:
            FormatError: what was written before is gone.
        """
        for number in range(first_slice, self.num_slices):
            chunks = self.files.done("mapped", number)["chunks"]
            are_kept = np.split(self._is_kept(number, sum(chunks)), np.cumsum(chunks)[:-1])
            for chunk, is_kept_N in enumerate(are_kept):
                if is_kept_N.any():
                    yield from self.files.pieces(number, chunk, is_kept_N)

    def lengths(self) -> Iterator[Int32]:
        """Return the lengths of the pieces of each slice, in tokens [N].

        Raises:
            FormatError: what was written before is gone.
        """
        return answers(self.files.place, self._lengths, range(self.num_slices))

    def _lengths(self, number: int) -> Int32:
        num_pieces = sum(self.files.done("mapped", number)["chunks"])
        lengths_N = self.files.lengths(number, num_pieces)
        return lengths_N[self._is_kept(number, num_pieces)]

    def _is_kept(self, number: int, num_pieces: int) -> Bool:
        is_kept_N = np.ones(num_pieces, np.bool_)
        for partition, flush, num_repeats in self._repeats.get(number, ()):
            is_kept_N[self.files.repeats(number, partition, flush, num_repeats)] = False
        return is_kept_N

    @cached_property
    def _repeats(self) -> dict[int, list[tuple[int, int, int]]]:
        """Return partition, flush and number of the repeats of each slice."""
        repeats: dict[int, list[tuple[int, int, int]]] = {}
        reduced = self.files.all_done("reduced", self.num_partitions)
        for partition, found in enumerate(reduced):
            for flush, slices in enumerate(found["flushes"]):
                for number, num_repeats in slices:
                    repeats.setdefault(number, []).append((partition, flush, num_repeats))
        return repeats


def share_units(lengths: Iterable[Int32], unit_tokens: int) -> list[Share]:
    """Return the units that begin in each slice, as `cut_windows` would cut all of them.

    Args:
        lengths: of the windows of each slice, in tokens [N].
        unit_tokens: a unit ends with the window that reaches them.
    """
    shares: list[Share] = []
    unit = open_tokens = 0
    for lengths_N in lengths:
        ends_N = np.cumsum(lengths_N, dtype=np.int64)
        # Where the last unit began; that may be in a slice before.
        first_unit, start, end = unit, -open_tokens, 0
        is_open = open_tokens > 0
        if is_open:
            end, is_open = _end(ends_N, start + unit_tokens)
        num_before = end
        while end < len(ends_N):
            start = int(ends_N[end - 1]) if end else 0
            end, is_open = _end(ends_N, start + unit_tokens)
            unit += 1
        open_tokens = int(lengths_N.sum(dtype=np.int64)) - start if is_open else 0
        shares.append(
            Share(first_unit=first_unit, num_units=unit - first_unit, num_before=num_before)
        )
    return shares


def _end(ends_N: npt.NDArray[np.int64], num_tokens: int) -> tuple[int, bool]:
    """Return how many windows it takes to reach a number of tokens, and whether there are fewer."""
    place = int(np.searchsorted(ends_N, num_tokens))
    return min(place + 1, len(ends_N)), place == len(ends_N)
