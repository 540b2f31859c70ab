"""Windows to Arrow columns and back. Pure numpy on Arrow's buffers: no Python object per element.

A column that has an element for each position is a `list` with a row per window; entries of a
position are one `fixed_size_binary`, so that a whole row group is a handful of contiguous arrays.
A window's part of a column is called its cell: an array of scalars [n], or of vectors [n, width].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from softtargets.errors import CorruptionError
from softtargets.store.column_checks import check_columns
from softtargets.store.row import Row, cell_columns
from softtargets.targets import (
    Array,
    Columns,
    Offsets,
    PackedTargets,
    TargetSchema,
    columns_of,
    parts_of,
)
from softtargets.targets.part import naming_rows
from softtargets.targets.target_schema import target_columns
from softtargets.targets.window_columns import METADATA_PREFIX
from softtargets.window import CELLS, TokenWindow, Window


def encode_tokens(windows: Sequence[TokenWindow]) -> dict[str, pa.Array]:
    """Return the columns that say what was scored."""
    columns = {
        "window_id": pa.array([window.window_id for window in windows], pa.string()),
        "source": pa.array([window.source for window in windows], pa.string()),
        "document_ids": _texts([window.document_ids for window in windows]),
        "offset": pa.array([window.offset for window in windows], pa.int64()),
    }
    for name, attribute in CELLS.items():
        if getattr(windows[0], attribute) is not None:
            columns[name] = _lists([getattr(window, attribute) for window in windows])
    for name in windows[0].metadata:
        columns[METADATA_PREFIX + name] = _texts([window.metadata[name] for window in windows])
    return columns


def encode(windows: Sequence[Window], schema: pa.Schema) -> pa.Table:
    """Return windows as a table of `schema`."""
    columns = encode_tokens(windows)
    for name in windows[0].packed.cells:
        columns[name] = _lists([window.packed.cells[name] for window in windows])
    return pa.table([columns[field.name].cast(field.type) for field in schema], schema=schema)


def decode_tokens(table: pa.Table) -> list[TokenWindow]:
    """Return the windows of a table of token columns."""
    flat = {name: _flat(table, name) for name in CELLS if name in table.column_names}
    columns = {name: values for name, (_, values) in flat.items()}
    offsets = {name: offsets.tolist() for name, (offsets, _) in flat.items()}
    rows = _rows_of(table, columns, offsets)
    return [
        TokenWindow(**_arrays(row), **texts)
        for row, texts in zip(rows, _texts_of(table), strict=True)
    ]


def decode(
    table: pa.Table,
    targets: TargetSchema,
    where: str,
    *,
    first_row: int = 0,
    are_values_checked: bool = True,
) -> list[Window]:
    """Return the windows of a row group; their arrays are views of its buffers.

    Args:
        table: the row group, or some rows of it.
        targets: what the store's targets are.
        where: the row group, for messages.
        first_row: which of its rows is the table's first.
        are_values_checked: whether values are checked, too, that a reader must not be given; what
            checks windows itself wants them as they are.

    Raises:
        CorruptionError: the columns disagree on how many positions a window has, or have values
            that the format has not.
    """
    columns, offsets = _columns(table, targets, where, first_row)
    if are_values_checked:
        check_columns(columns, offsets, targets, where, first_row)
        _check_documents(table, offsets, targets, where, first_row)
        for part in parts_of(targets):
            with naming_rows(part, columns, offsets, where, first_row):
                part.check_cells(columns)
    names = [column.name for column in target_columns(targets)]
    windows = []
    for row, texts in zip(_rows_of(table, columns, offsets), _texts_of(table), strict=True):
        arrays = _arrays(row)
        packed = PackedTargets(
            schema=targets,
            num_positions=len(arrays["mask_T"]),
            cells={name: row.cell(name) for name in names},
        )
        windows.append(Window(packed=packed, **arrays, **texts))
    return windows


def decode_rows(
    table: pa.Table, targets: TargetSchema, where: str, *, are_values_checked: bool = True
) -> list[Row]:
    """Return the rows of a row group; a table of `row_columns` has all that is needed.

    Args:
        table: the row group.
        targets: what the store's targets are.
        where: the row group, for messages.
        are_values_checked: whether values are checked, too, as far as unpacking samples does not.

    Raises:
        CorruptionError: the columns disagree on how many positions a window has, or have values
            that the format has not.
    """
    columns: Columns
    offsets: Offsets
    columns, offsets = _columns(table, targets, where, 0)
    if are_values_checked:
        check_columns(columns, offsets, targets, where)
    for part in parts_of(targets):
        columns, offsets = part.for_batches(columns, offsets, where)
    return _rows_of(table, columns, offsets)


def _columns(
    table: pa.Table, targets: TargetSchema, where: str, first_row: int
) -> tuple[dict[str, Array], dict[str, list[int]]]:
    """Return the values of all columns of lists, and where the cells of the rows begin in them."""
    columns, arrays = {}, {}
    for column in cell_columns(targets):
        arrays[column.name], values = _flat(table, column.name)
        columns[column.name] = values if column.width is None else values.view(column.dtype)
    _check_lengths(arrays, targets, where, first_row)
    # Nearly all columns begin their cells at the same places.
    lists = {array.tobytes(): array.tolist() for array in arrays.values()}
    return columns, {name: lists[array.tobytes()] for name, array in arrays.items()}


def _rows_of(table: pa.Table, columns: Columns, offsets: Offsets) -> list[Row]:
    ids = table.column("window_id").to_pylist()
    return [Row(window_id, index, columns, offsets) for index, window_id in enumerate(ids)]


def _arrays(row: Row) -> dict[str, Any]:
    """Return a window's own arrays, as `TokenWindow` calls them."""
    names = (name for name in CELLS if name in row.columns)
    return {CELLS[name]: row.cell(name) for name in names}


def _texts_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield what else a window says of itself, as `TokenWindow` calls it."""
    names = {name: table.column(name).to_pylist() for name in ("window_id", "source", "offset")}
    document_ids = table.column("document_ids").to_pylist()
    metadata = {
        name.removeprefix(METADATA_PREFIX): table.column(name).to_pylist()
        for name in table.column_names
        if name.startswith(METADATA_PREFIX)
    }
    for row, own in enumerate(document_ids):
        yield {
            **{name: values[row] for name, values in names.items()},
            "document_ids": tuple(own),
            "metadata": {name: tuple(texts[row]) for name, texts in metadata.items()},
        }


def _lists(arrays: Sequence[Array]) -> pa.Array:
    """Return one list per array: of its scalars, or of its rows as bytes if it has two axes."""
    offsets = pa.array(np.cumsum([0, *(len(array) for array in arrays)]), pa.int32())
    values = np.ascontiguousarray(np.concatenate(arrays))
    if values.ndim == 1:
        return pa.ListArray.from_arrays(offsets, pa.array(values))
    blobs = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(values.shape[1] * values.itemsize), len(values), [None, pa.py_buffer(values)]
    )
    return pa.ListArray.from_arrays(offsets, blobs)


def _texts(cells: Sequence[Sequence[str]]) -> pa.Array:
    return pa.array([list(cell) for cell in cells], pa.list_(pa.string()))


def _flat(table: pa.Table, name: str) -> tuple[Array, Array]:
    """Return a list column as offsets [rows + 1], from 0, and contiguous values, without a copy."""
    column = table.column(name)
    # combine_chunks copies even a single chunk.
    column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    offsets, values = column.offsets.to_numpy(), column.values
    if pa.types.is_fixed_size_binary(values.type):
        width = values.type.byte_width
        flat = np.frombuffer(values.buffers()[1] or b"", np.uint8)
        rows = flat[values.offset * width : (values.offset + len(values)) * width]
        elements = rows.reshape(len(values), width)
    else:
        elements = values.to_numpy(zero_copy_only=False)
    if offsets[0]:
        return offsets - offsets[0], elements[offsets[0] : offsets[-1]]
    return offsets, elements


def _check_lengths(
    offsets: Mapping[str, Array], targets: TargetSchema, where: str, first_row: int
) -> None:
    """Check that every cell has as many elements as its window has tokens, targets or classes."""
    tokens, mask = offsets["input_ids"], offsets["mask"]
    windows = np.arange(len(tokens), dtype=tokens.dtype)
    expected = {
        "tokens": tokens,
        "targets": mask,
        "classes": mask * targets.num_classes,
        "single": windows,
    }
    wanted = {
        column.name: expected[column.rows]
        for column in columns_of(targets)
        if column.rows in expected
    }
    if targets.positions == "all":
        wanted["mask"] = targets.convention.num_targets(tokens, windows)
    for name, own in wanted.items():
        if offsets[name].tobytes() != own.tobytes():
            words = "elements, by the window's tokens and targets"
            _check_same(np.diff(offsets[name]), np.diff(own), words, name, where, first_row)


def _check_documents(
    table: pa.Table,
    offsets: Offsets,
    targets: TargetSchema,
    where: str,
    first_row: int,
) -> None:
    """Check that every segment has its texts, and a window a place in its document."""
    wanted = np.diff(offsets["segment_lengths"])
    for name in ("document_ids", *(METADATA_PREFIX + name for name in targets.metadata)):
        lengths = pc.list_value_length(table.column(name)).to_numpy()
        _check_same(lengths, wanted, "texts, one for each segment", name, where, first_row)
    places = table.column("offset").to_numpy()
    if len(places) and places.min() < 0:
        row = int(places.argmin())
        raise CorruptionError(
            f"{where}, row {first_row + row}, column offset",
            expected="a place in its document that is not negative",
            found=f"{places[row]}",
        )


def _check_same(
    found: Array, wanted: Array, words: str, name: str, where: str, first_row: int
) -> None:
    """Check how many elements the cells of a column have."""
    if not np.array_equal(found, wanted):
        row = int((found != wanted).argmax())
        raise CorruptionError(
            f"{where}, row {first_row + row}, column {name}",
            expected=f"{wanted[row]} {words}",
            found=f"{found[row]}",
        )
