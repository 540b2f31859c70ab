"""Columns of lists, and of lists of lists, as flat numpy arrays and back.

Shapes: R rows, N positions of all rows, E entries of all positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from softtargets.errors import CorpusError
from softtargets.limits import Limit
from softtargets.targets import Array, Int64
from softtargets.texts import shortened

Kind = Literal["integers", "numbers"]

TOKENS_LIMIT = Limit(
    variable="SOFTTARGETS_MAX_ROW_TOKENS", default=1 << 20, unit="elements in the list of one row"
)

ROUNDING_FLOAT32 = 2.0**-24
"""Of float64 columns too: no teacher computes in more."""
_ROUNDING = {"halffloat": 2.0**-11}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lists:
    """A column of lists of numbers."""

    bounds: Int64
    """R + 1 numbers: where each row begins among the values, and where the last one ends."""
    values: Array

    def row(self, number: int) -> Array:
        """Return one row's list."""
        return self.values[self.bounds[number] : self.bounds[number + 1]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedLists:
    """A column of lists of lists of numbers: of every row, position by position, the entries."""

    positions: Lists
    """The number of entries of each position."""
    entries: Lists
    rounding: float
    """Relative error of their number format."""

    def row(self, number: int) -> tuple[Int64, Array]:
        """Return one row's numbers of entries [T], and the entries themselves [E]."""
        return self.positions.row(number), self.entries.row(number)


def nested_lists(values: Sequence[Array], counts: Sequence[Array]) -> pa.Array:
    """Return a column of lists of lists.

    Args:
        values: of each row all entries, end to end.
        counts: of each row how many entries every position has.
    """
    inner = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    outer = np.cumsum([0, *(len(one) for one in counts)])
    entries = pa.ListArray.from_arrays(
        pa.array(inner, pa.int32()), pa.array(np.concatenate(values))
    )
    return pa.ListArray.from_arrays(pa.array(outer, pa.int32()), entries)


def read_lists(batch: pa.RecordBatch, name: str, where: str, kind: Kind = "integers") -> Lists:
    """Return a column of lists of numbers.

    Raises:
        CorpusError: it is something else, or a row is null.
        LimitError: a list is longer than it is trusted to be.
    """
    column = _column(batch, name, where)
    if not _is_list(column.type) or not _is_number(column.type.value_type, kind):
        raise _wrong(where, name, f"lists of {kind}", f"{column.type}")
    bounds = _bounds(pc.list_value_length(column))
    _check_rows(bounds, where, name)
    return Lists(bounds=bounds, values=_values(column.flatten(), where, name))


def read_numbers(batch: pa.RecordBatch, name: str, where: str) -> Array:
    """Return a column of numbers.

    Raises:
        CorpusError: it is something else, or a row is null.
    """
    column = _column(batch, name, where)
    if not _is_number(column.type, "numbers"):
        raise _wrong(where, name, "numbers", f"{column.type}")
    return _values(column, where, name)


def read_nested(
    batch: pa.RecordBatch, name: str, where: str, kind: Kind = "integers"
) -> NestedLists:
    """Return a column of lists of lists of numbers; a position that is null has no entries.

    Raises:
        CorpusError: it is something else, or a row or an entry is null.
        LimitError: a row has more lists than it is trusted with.
    """
    column = _column(batch, name, where)
    inner = column.type.value_type if _is_list(column.type) else None
    if inner is None or not _is_list(inner) or not _is_number(inner.value_type, kind):
        raise _wrong(where, name, f"lists of lists of {kind}", f"{column.type}")
    row_bounds = _bounds(pc.list_value_length(column))
    _check_rows(row_bounds, where, name)
    positions = column.flatten()
    counts = pc.fill_null(pc.list_value_length(positions), 0)
    values = _values(positions.flatten(), where, name)
    return NestedLists(
        positions=Lists(bounds=row_bounds, values=counts.to_numpy().astype(np.int64)),
        entries=Lists(bounds=_bounds(counts)[row_bounds], values=values),
        rounding=_ROUNDING.get(str(inner.value_type), ROUNDING_FLOAT32),
    )


def _column(batch: pa.RecordBatch, name: str, where: str) -> pa.Array:
    if name not in batch.schema.names:
        raise CorpusError(
            where,
            expected=f"a column {name}",
            found=shortened(f"columns {', '.join(batch.schema.names) or 'none'}"),
            next_step="docs/formats.md says what each layout has; --from names the layout.",
        )
    column = batch.column(name)
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise _wrong(where, name, "a list in every row", f"null, first in row {row} of this part")
    return column


def _values(values: pa.Array, where: str, name: str) -> Array:
    if values.null_count:
        raise _wrong(where, name, "numbers", f"null in {values.null_count} places")
    found: Array = values.to_numpy(zero_copy_only=False)
    return found


def _bounds(lengths: pa.Array) -> Int64:
    return np.concatenate([[0], np.cumsum(lengths.to_numpy(zero_copy_only=False))]).astype(np.int64)


def _check_rows(bounds: Int64, where: str, name: str) -> None:
    TOKENS_LIMIT.check(f"{where}, column {name}", int(np.diff(bounds).max(initial=0)))


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_fixed_size_list(kind):
        # Any number of lists of nothing takes no bytes.
        return bool(kind.list_size > 0)
    return bool(types.is_list(kind) or types.is_large_list(kind))


def _is_number(found: pa.DataType, kind: Kind) -> bool:
    is_integer = bool(pa.types.is_integer(found))
    return is_integer or (kind == "numbers" and bool(pa.types.is_floating(found)))


def _wrong(where: str, name: str, expected: str, found: str) -> CorpusError:
    return CorpusError(
        f"{where}, column {name}",
        expected=expected,
        found=shortened(found),
        next_step="docs/formats.md says what each layout has; --from names the layout.",
    )
