"""Windows to Arrow columns and back. Pure numpy on Arrow's buffers: no Python object per element.

A column that has an element for each position is a `list` with a row per window; entries of a
position are one `fixed_size_binary`, so that a whole row group is a handful of contiguous arrays.
A window's part of a column is called its cell: an array of scalars [n], or of bytes [n, width].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from softtargets.errors import CorruptionError
from softtargets.kinds import TargetSchema, feature_columns
from softtargets.packing import PackedFeature, PackedHead, PackedTargets
from softtargets.packing.features import STORED_AS
from softtargets.store.blocks import Array, Columns, Offsets
from softtargets.store.column_checks import check_columns
from softtargets.store.manifest import RESTORE
from softtargets.store.sample_columns import check_samples, packed_samples, unpack_columns
from softtargets.store.schema import (
    METADATA_PREFIX,
    Column,
    columns_of,
    grid_columns,
    id_columns,
)
from softtargets.window import TokenWindow, Window

_TOKEN_ARRAYS = {
    "input_ids_L": "input_ids",
    "mask_T": "mask",
    "segment_lengths_S": "segment_lengths",
}
_OPTIONAL_TOKENS = {
    "target_positions": "positions_T",
    "label_ids": "label_ids_T",
    "encoder_input_ids": "encoder_ids_M",
}
"""Columns that some windows have, and their names in `TokenWindow`."""


@dataclass(slots=True, eq=False)
class Row:
    """A window to make a batch of: its cells in the columns of a row group, which rows share.

    They are as they are stored, but for samples, which are unpacked.
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


def row_columns(targets: TargetSchema) -> tuple[str, ...]:
    """Return the columns that rows are made of."""
    return ("window_id", *(column.name for column in _cell_columns(targets)))


def _cell_columns(targets: TargetSchema) -> list[Column]:
    every = columns_of(targets)
    return [one for one in every if one.rows != "window" and one.element != pa.string()]


def row_of(window: Window) -> Row:
    """Return a window as the row that `decode_rows` makes of it.

    Raises:
        CorruptionError: there are not as many escapes as steps ask for, or its samples cannot be
            unpacked.
    """
    targets = window.packed.schema
    if window.packed.head is not None:
        window.packed.head.check_escapes()
    columns: Columns
    offsets: Offsets
    columns, offsets = cells_of(window)
    if targets.samples is not None:
        columns, offsets = unpack_columns(columns, offsets, targets, f"window {window.window_id}")
    return Row(window.window_id, 0, columns, offsets)


def cells_of(window: Window) -> tuple[dict[str, Array], dict[str, list[int]]]:
    """Return a window's cells by their column, and where each begins and ends: at 0 and its end."""
    names = _TOKEN_ARRAYS | {attribute: name for name, attribute in _OPTIONAL_TOKENS.items()}
    tokens = {name: getattr(window, attribute) for attribute, name in names.items()}
    cells = {name: cell for name, cell in tokens.items() if cell is not None}
    cells |= _cells(window.packed)
    return cells, {name: [0, len(cell)] for name, cell in cells.items()}


def encode_tokens(windows: Sequence[TokenWindow]) -> dict[str, pa.Array]:
    """Return the columns that say what was scored."""
    columns = {
        "window_id": pa.array([window.window_id for window in windows], pa.string()),
        "source": pa.array([window.source for window in windows], pa.string()),
        "document_ids": _texts([window.document_ids for window in windows]),
        "segment_lengths": _lists([window.segment_lengths_S for window in windows]),
        "offset": pa.array([window.offset for window in windows], pa.int64()),
        "input_ids": _lists([window.input_ids_L for window in windows]),
        "mask": _lists([window.mask_T for window in windows]),
    }
    for name, attribute in _OPTIONAL_TOKENS.items():
        if getattr(windows[0], attribute) is not None:
            columns[name] = _lists([getattr(window, attribute) for window in windows])
    for name in windows[0].metadata:
        columns[METADATA_PREFIX + name] = _texts([window.metadata[name] for window in windows])
    return columns


def encode(windows: Sequence[Window], schema: pa.Schema) -> pa.Table:
    """Return windows as a table of `schema`."""
    columns = encode_tokens(windows)
    cells = [_cells(window.packed) for window in windows]
    for name in cells[0]:
        columns[name] = _lists([one[name] for one in cells])
    return pa.table([columns[field.name].cast(field.type) for field in schema], schema=schema)


def decode_tokens(table: pa.Table) -> list[TokenWindow]:
    """Return the windows of a table of token columns."""
    return [TokenWindow(**fields) for fields in _token_fields(table)]


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
        if targets.samples is not None:
            check_samples(columns, offsets, targets, where, first_row)
    return [
        Window(packed=_packed({name: row.cell(name) for name in row.columns}, targets), **fields)
        for row, fields in zip(_rows_of(table, columns, offsets), _token_fields(table), strict=True)
    ]


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
    if targets.samples is not None:
        columns, offsets = unpack_columns(columns, offsets, targets, where)
    return _rows_of(table, columns, offsets)


def _columns(
    table: pa.Table, targets: TargetSchema, where: str, first_row: int
) -> tuple[dict[str, Array], dict[str, list[int]]]:
    """Return the values of all columns of lists, and where the cells of the rows begin in them."""
    columns, arrays = {}, {}
    for column in _cell_columns(targets):
        arrays[column.name], columns[column.name] = _flat(table, column.name)
    _check_lengths(arrays, targets, where, first_row)
    # Nearly all columns begin their cells at the same places.
    lists = {array.tobytes(): array.tolist() for array in arrays.values()}
    return columns, {name: lists[array.tobytes()] for name, array in arrays.items()}


def _rows_of(table: pa.Table, columns: Columns, offsets: Offsets) -> list[Row]:
    ids = table.column("window_id").to_pylist()
    return [Row(window_id, index, columns, offsets) for index, window_id in enumerate(ids)]


def _cells(packed: PackedTargets) -> dict[str, Array]:
    """Return a window's part of every column of targets."""
    cells: dict[str, Array | None] = {"top_logit": packed.top_logit_T}
    head, samples = packed.head, packed.samples
    if head is not None:
        cells |= dict(zip(id_columns(packed.schema), head.id_planes, strict=True))
        cells |= {"num_entries": head.num_entries_T, "steps": head.steps_TH}
        cells |= {"escapes": head.escapes_E if head.logits_TK is None else None}
        cells |= {"logits": head.logits_TK}
    if samples is not None:
        cells |= {"num_repeated": samples.num_repeated_T, "sample_gaps": samples.gaps_S}
        cells |= {"repeated_counts": samples.repeated_counts}
        cells |= {"sample_steps": samples.steps_S, "sample_logits": samples.logits_S}
    grid_TG = packed.logsumexp_TG if head is None else packed.tail_mass_TG
    for index, name in enumerate(grid_columns(packed.schema)):
        assert grid_TG is not None
        cells[name] = grid_TG[:, index]
    cells |= {"label_logit": packed.label_logit_T, "label_rank": packed.label_rank_T}
    if packed.class_logits_TC is not None:
        cells["class_logits"] = packed.class_logits_TC.ravel()
    for feature in packed.schema.features:
        own = packed.features[feature.name]
        cells |= dict(zip(feature_columns(feature), (own.values_RD, own.scale_R), strict=False))
    return {name: cell for name, cell in cells.items() if cell is not None}


def _packed(cells: Mapping[str, Array], targets: TargetSchema) -> PackedTargets:
    """Return the targets of a window from its cells."""
    head, samples = None, None
    grid_TG = np.empty((len(cells["mask"]), len(targets.temperatures)), np.float32)
    for index, name in enumerate(grid_columns(targets)):
        grid_TG[:, index] = cells[name]
    if targets.head is not None:
        logits = cells.get("logits")
        head = PackedHead(
            id_planes=tuple([cells[name] for name in id_columns(targets)]),
            num_entries_T=cells["num_entries"],
            steps_TH=cells.get("steps"),
            escapes_E=cells.get("escapes", np.empty(0, np.int32)),
            logits_TK=None if logits is None else logits.view("<f4"),
            step=targets.head.step,
        )
    if targets.samples is not None:
        samples = packed_samples(cells, targets)
    features = {}
    for feature in targets.features:
        values, *scale = (cells[name] for name in feature_columns(feature))
        features[feature.name] = PackedFeature(
            values_RD=values.view(STORED_AS[feature.dtype]),
            scale_R=scale[0] if scale else None,
        )
    classes = cells.get("class_logits")
    return PackedTargets(
        schema=targets,
        num_positions=len(grid_TG),
        head=head,
        samples=samples,
        top_logit_T=cells.get("top_logit"),
        tail_mass_TG=None if targets.head is None else grid_TG,
        logsumexp_TG=grid_TG if targets.head is None and targets.temperatures else None,
        label_logit_T=cells.get("label_logit"),
        label_rank_T=cells.get("label_rank"),
        class_logits_TC=None if classes is None else classes.reshape(-1, targets.num_classes),
        features=features,
    )


def _token_fields(table: pa.Table) -> Iterator[dict[str, Any]]:
    arrays = dict(_TOKEN_ARRAYS)
    for name, attribute in _OPTIONAL_TOKENS.items():
        if name in table.column_names:
            arrays[attribute] = name
    rows = _rows({attribute: _flat(table, name) for attribute, name in arrays.items()})
    names = {name: table.column(name).to_pylist() for name in ("window_id", "source", "offset")}
    texts = {
        name: table.column(name).to_pylist()
        for name in table.column_names
        if name == "document_ids" or name.startswith(METADATA_PREFIX)
    }
    document_ids = texts.pop("document_ids")
    for row, own in enumerate(rows):
        yield {
            **{name: values[row] for name, values in names.items()},
            "document_ids": tuple(document_ids[row]),
            "metadata": {
                name.removeprefix(METADATA_PREFIX): tuple(cells[row])
                for name, cells in texts.items()
            },
            **own,
        }


def _rows(columns: Mapping[str, tuple[Array, Array]]) -> list[dict[str, Array]]:
    """Return every window's cells of all columns."""
    cells = [
        [values[start:stop] for start, stop in pairwise(offsets.tolist())]
        for offsets, values in columns.values()
    ]
    return [dict(zip(columns, own, strict=True)) for own in zip(*cells, strict=True)]


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
        spare = {"next_token": tokens - windows, "token": tokens, "window": windows}
        wanted["mask"] = spare[targets.predicts]
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
            next_step=RESTORE,
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
            next_step=RESTORE,
        )
