"""Rows: the windows that batches are made of, and the cells of a window."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from softtargets.targets import (
    Array,
    Column,
    Columns,
    EntryPlanes,
    Offsets,
    TargetSchema,
    columns_of,
    part_of,
    parts_of,
)
from softtargets.window import CELLS, Window


@dataclass(slots=True, eq=False)
class Row:
    """A window to make a batch of: its cells in the columns of a row group, which rows share.

    They are as they are stored, but for what has another form in batches (`Part.for_batches`).
    """

    window_id: str
    index: int
    """Which window of the row group it is."""
    columns: Columns
    """The values of every column of lists that are not texts, by its name."""
    offsets: Offsets

    def __len__(self) -> int:
        start, stop = self.bounds("input_ids")
        return stop - start

    def bounds(self, name: str) -> tuple[int, int]:
        """Return where the cell of a column begins and ends; alike for all columns of targets."""
        offsets = self.offsets[name]
        return offsets[self.index], offsets[self.index + 1]

    def cell(self, name: str) -> Array:
        """Return the cell of a column."""
        start, stop = self.bounds(name)
        return self.columns[name][start:stop]


@cache
def cell_columns(targets: TargetSchema) -> tuple[Column, ...]:
    """Return the columns that have a cell: those of lists that are not texts."""
    every = columns_of(targets)
    return tuple(one for one in every if one.rows != "window" and one.element != "string")


def row_columns(targets: TargetSchema) -> tuple[str, ...]:
    """Return the columns that rows are made of."""
    return ("window_id", *(column.name for column in cell_columns(targets)))


def row_of(window: Window) -> Row:
    """Return a window as the row that `decode_rows` makes of it.

    Raises:
        CorruptionError: there are not as many escapes as steps ask for, or its samples cannot be
            unpacked.
    """
    columns, offsets = cells_of(window)
    where = f"window {window.window_id}"
    schema = window.packed.schema
    entries = part_of(schema, EntryPlanes)
    if entries is not None:
        entries.check_escapes(columns)
    for part in parts_of(schema):
        columns, offsets = part.for_batches(columns, offsets, where)
    return Row(window.window_id, 0, columns, offsets)


def cells_of(window: Window) -> tuple[Columns, Offsets]:
    """Return a window's cells by their column, and where each begins and ends: at 0 and its end."""
    tokens = {name: getattr(window, attribute) for name, attribute in CELLS.items()}
    cells = {name: cell for name, cell in tokens.items() if cell is not None}
    cells |= window.packed.cells
    return cells, {name: [0, len(cell)] for name, cell in cells.items()}
