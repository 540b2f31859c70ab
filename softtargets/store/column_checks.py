"""Values that no reader may be given: what is checked whenever windows are decoded.

A checksum says that a file is as it was written, and not that what was written makes sense. So the
flat columns of a row group are looked at before anything is made of them: ids out of their range,
numbers that are none, escapes and segments that do not fit. All of it is a few reductions of
contiguous arrays. Where one of them finds something, and only then, the place is looked for. What
columns say about each other is for `invariants`, and checked by `verify` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from softtargets.errors import CorruptionError
from softtargets.targets import Columns, Offsets, Range, TargetSchema, columns_of, parts_of
from softtargets.targets.part import Fault, outside


def check_columns(
    columns: Columns, offsets: Offsets, targets: TargetSchema, where: str, first_row: int = 0
) -> None:
    """Check the columns of some rows.

    Args:
        columns: of every column of lists that are not texts, its values.
        offsets: where the rows' cells begin in them, and the last one ends.
        targets: what the columns are of.
        where: the row group.
        first_row: which of its rows is the first.

    Raises:
        CorruptionError: a value is none that the format has.
    """
    for fault in column_faults(columns, offsets, targets):
        raise CorruptionError(
            f"{where}, row {first_row + fault.row}, column {fault.column}",
            expected=fault.expected,
            found=fault.found,
        )


def column_faults(columns: Columns, offsets: Offsets, targets: TargetSchema) -> Iterator[Fault]:
    """Yield what is wrong with the columns of some rows, each kind of fault once; see above."""
    for name, within in _ranges(targets):
        values = columns[name]
        if len(values) and not within.holds(values):
            yield from outside(values, within.contains(values), offsets, name, within.words)
    for part in parts_of(targets):
        yield from part.faults(columns, offsets)


@cache
def _ranges(targets: TargetSchema) -> tuple[tuple[str, Range], ...]:
    """Return the ranges of the columns that have one."""
    ranges = ((column.name, column.within) for column in columns_of(targets))
    return tuple((name, within) for name, within in ranges if within is not None)
