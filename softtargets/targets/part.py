"""What every part of a target answers for: its columns, its packing, its checks, its words.

A target has parts: entries, draws, class logits and so on. A file of this folder owns each of them,
and `TargetSchema` lists those of a store. Everything else asks the parts, so that a new one is a
class like these and nothing else; `OwnPart` is how you add one from outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from softtargets.errors import CorruptionError
from softtargets.targets.arrays import Array, Bool, Cells, Columns, Offsets
from softtargets.targets.evidence import Evidence
from softtargets.targets.number_formats import STORED_AS
from softtargets.targets.promises import Promises
from softtargets.targets.soft_targets import SoftTargets

Rows = Literal["window", "tokens", "targets", "classes", "single", "any"]
"""How many elements a cell has: a scalar for the window; one for each token, for each target, for
each class of each target; a list of one; a number of its own."""

Element = Literal[
    "string", "bool", "int8", "uint8", "int32", "int64", "float8", "float16", "bfloat16", "float32"
]
"""What an element of a column consists of."""

LARGEST_INT = int(np.iinfo(np.int32).max)
LARGEST_FLOAT = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and the largest number of a column, in 32 bits each."""

    low: float
    high: float
    words: str

    def holds(self, values: Array) -> bool:
        """Return whether all numbers are in the range; False may be wrong, True is not."""
        if self.low == 0:
            # Seen as unsigned, negative numbers and NaN are above all others.
            highest = np.asarray(self.high, values.dtype).view(np.uint32)
            return bool(values.view(np.uint32).max() <= highest)
        has_low = self.low == -np.inf or values.min() >= self.low
        has_high = self.high == LARGEST_INT or values.max() <= self.high
        return bool(has_low and has_high)

    def contains(self, values: Array) -> Bool:
        """Return which numbers are in the range."""
        return np.asarray((values >= self.low) & (values <= self.high))


FINITE = Range(-LARGEST_FLOAT, LARGEST_FLOAT, "finite numbers")
BELOW_INFINITY = Range(-np.inf, LARGEST_FLOAT, "numbers below infinity")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a shard."""

    name: str
    element: Element
    rows: Rows
    words: str
    """What it holds, for people."""
    width: int | None = None
    """Numbers of an element that is a vector of them; None where an element is one number."""
    within: Range | None = None
    """What all of its numbers are in."""
    fill: float = 0
    """What stands in a batch where there is no target."""
    is_split: bool = False
    """Whether the bytes of its numbers are stored apart; those of float32 numbers always are."""
    is_tight: bool = False
    """Whether it is compressed as tightly as zstd can."""
    is_random: bool = False
    """Whether compressing it saves nothing and costs time."""
    working_bytes: int = 0
    """What is needed to compute with an element, where that may be very much: measured."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return how numpy reads its numbers; bfloat16 are the upper halves of float32 numbers."""
        return np.dtype(STORED_AS[self.element])

    @property
    def vector_bytes(self) -> int | None:
        """Return the bytes of an element that is a vector; None where it is one number."""
        return None if self.width is None else self.width * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A place in a column that is not what the format promises."""

    column: str
    row: int
    """Which window of the row group it is in."""
    expected: str
    found: str


def outside(
    values: Array, holds: Bool | np.bool_, offsets: Offsets, column: str, expected: str
) -> Iterator[Fault]:
    """Yield a fault for the first element that is not as it should be, if there is one."""
    if holds.all():
        return
    place = int(holds.argmin())
    row = int(np.searchsorted(offsets[column], place, side="right")) - 1
    value = f"{values[place]} " if values.ndim == 1 else ""
    yield Fault(
        column=column,
        row=row,
        expected=expected,
        found=f"{value}at element {place - offsets[column][row]} of the row",
    )


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the targets of a store."""

    def columns(self) -> Sequence[Column]:
        """Return the columns it is stored in, in their order."""
        return ()

    def describe(self) -> str:
        """Return what it is, in a few words, or nothing."""
        return ""

    def exactness(self, imported: Mapping[str, Any] | None) -> Iterator[str]:
        """Yield sentences on how exact it is; `imported` says how targets of others came here."""
        yield from ()

    @property
    def holds(self) -> Sequence[str]:
        """Return what `SoftTargets.parts` calls what it has there, if it has anything."""
        return ()

    def fits(self) -> Promises:
        """Yield what must hold of the schema so that this may be part of it."""
        yield from ()

    def pack(self, targets: SoftTargets) -> dict[str, Array]:
        """Return the cells of its columns.

        Raises:
            InputError: it cannot be stored in this form.
        """
        return {}

    def unpack(self, cells: Cells) -> dict[str, Any]:
        """Return its fields of `SoftTargets`; what is in `others` joins that of other parts.

        Raises:
            CorruptionError: cells do not fit each other.
        """
        return {}

    def check_cells(self, columns: Columns) -> None:
        """Check, for less than it takes to unpack them, that cells can be unpacked.

        Raises:
            CorruptionError: they cannot.
        """

    def faults(self, columns: Columns, offsets: Offsets) -> Iterator[Fault]:
        """Yield what is wrong in the columns of some rows beyond their ranges."""
        yield from ()

    def for_batches(
        self, columns: Columns, offsets: Offsets, where: str
    ) -> tuple[Columns, Offsets]:
        """Return the columns of some rows in the form that batches are made of.

        Raises:
            CorruptionError: they cannot be unpacked; the message names the first such row.
        """
        return columns, offsets

    def promises(self, cells: Cells, targets: SoftTargets) -> Promises:
        """Yield what must hold at each position, as far as this part alone tells."""
        yield from ()

    def contradictions(self, evidence: Evidence) -> Promises:
        """Yield what must hold at each position, by all that is known of it."""
        yield from ()


@contextmanager
def naming_rows(
    part: Part, columns: Columns, offsets: Offsets, where: str, first_row: int = 0
) -> Iterator[None]:
    """Name the first row whose cells a part cannot unpack in a CorruptionError.

    Args:
        part: whose columns are looked at.
        columns: of some rows.
        offsets: where their cells begin in them.
        where: the row group.
        first_row: which of its rows is the first.
    """
    try:
        yield
    except CorruptionError as error:
        row, first = _first_damaged(part, columns, offsets) or (0, error)
        raise CorruptionError(
            f"{where}, row {first_row + row}, {first.where}",
            expected=first.expected,
            found=first.found,
            next_step=first.next_step,
        ) from error


def _first_damaged(
    part: Part, columns: Columns, offsets: Offsets
) -> tuple[int, CorruptionError] | None:
    for row in range(len(offsets["mask"]) - 1):
        cells = {
            name: values[offsets[name][row] : offsets[name][row + 1]]
            for name, values in columns.items()
        }
        try:
            part.check_cells(cells)
        except CorruptionError as error:
            return row, error
    return None
