"""Windows to Arrow columns and back. Pure numpy on Arrow's buffers: no Python object per element.

A per-position array is one `list` column with a row per window; entries of a position are one
`fixed_size_binary`, so that a whole row group is a handful of contiguous arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from softtargets.errors import CorruptionError
from softtargets.packing import PackedTargets
from softtargets.store.schema import TargetSchema
from softtargets.window import TokenWindow, Window

Array = npt.NDArray[Any]

TOKEN_COLUMNS = (
    "window_id",
    "source",
    "document_ids",
    "segment_lengths",
    "offset",
    "input_ids",
    "mask",
)


def encode_tokens(windows: Sequence[TokenWindow]) -> dict[str, pa.Array]:
    """Return the columns that say what was scored."""
    document_ids = [list(window.document_ids) for window in windows]
    return {
        "window_id": pa.array([window.window_id for window in windows], pa.string()),
        "source": pa.array([window.source for window in windows], pa.string()),
        "document_ids": pa.array(document_ids, pa.list_(pa.string())),
        "segment_lengths": _lists([window.segment_lengths_S for window in windows]),
        "offset": pa.array([window.offset for window in windows], pa.int64()),
        "input_ids": _lists([window.input_ids_L for window in windows]),
        "mask": _lists([window.mask_T for window in windows]),
    }


def encode(windows: Sequence[Window], schema: pa.Schema, targets: TargetSchema) -> pa.Table:
    """Return windows as a table of `schema`."""
    packed = [window.packed for window in windows]
    columns = encode_tokens(windows)
    for plane, name in enumerate(targets.id_columns):
        columns[name] = _blobs([one.id_planes[plane] for one in packed])
    columns["num_entries"] = _lists([one.num_entries_T for one in packed])
    columns["top_logit"] = _lists([one.top_logit_T for one in packed])
    if targets.values == "steps":
        columns["steps"] = _blobs([one.steps_TH for one in packed if one.steps_TH is not None])
        columns["escapes"] = _lists([one.escapes_E for one in packed])
    else:
        columns["logits"] = _blobs([one.logits_TK for one in packed if one.logits_TK is not None])
    for index, name in enumerate(targets.tail_columns):
        columns[name] = _lists([one.tail_mass_TG[:, index] for one in packed])
    columns["label_logit"] = _lists([one.label_logit_T for one in packed])
    columns["label_rank"] = _lists([one.label_rank_T for one in packed])
    return pa.table([columns[field.name].cast(field.type) for field in schema], schema=schema)


def decode_tokens(table: pa.Table, where: str) -> list[TokenWindow]:
    """Return the windows of a table of token columns."""
    return [TokenWindow(**fields) for fields in _token_fields(table, where)]


def decode(table: pa.Table, targets: TargetSchema, where: str) -> list[Window]:
    """Return the windows of a row group; their arrays are views of its buffers.

    Raises:
        CorruptionError: the columns disagree on how many positions a window has.
    """
    offsets, top_logit_N = _flat(table, "top_logit")

    def column(name: str) -> Array:
        own_offsets, values = _flat(table, name)
        _check_same(offsets, own_offsets, where, name)
        return values

    escape_offsets, escapes_E = np.zeros_like(offsets), np.empty(0, np.int32)
    if targets.values == "steps":
        escape_offsets, escapes_E = _flat(table, "escapes")
    packed = PackedTargets(
        id_planes=tuple(column(name) for name in targets.id_columns),
        num_entries_T=column("num_entries"),
        steps_TH=column("steps") if targets.values == "steps" else None,
        escapes_E=escapes_E,
        logits_TK=column("logits").view("<f4") if targets.values == "float32" else None,
        top_logit_T=top_logit_N,
        tail_mass_TG=np.stack([column(name) for name in targets.tail_columns], axis=1),
        label_logit_T=column("label_logit"),
        label_rank_T=column("label_rank"),
        step=targets.step,
        temperatures=targets.temperatures,
        vocab_size=targets.vocab_size,
    )
    windows = []
    for row, fields in enumerate(_token_fields(table, where)):
        start, stop = int(offsets[row]), int(offsets[row + 1])
        _check_length(len(fields["input_ids_L"]) - 1, stop - start, where, row)
        rows = packed.rows(start, stop, int(escape_offsets[row]), int(escape_offsets[row + 1]))
        windows.append(Window(packed=rows, **fields))
    return windows


def _token_fields(table: pa.Table, where: str) -> list[dict[str, Any]]:
    token_offsets, input_ids_N = _flat(table, "input_ids")
    mask_offsets, mask_N = _flat(table, "mask")
    segment_offsets, segment_lengths_N = _flat(table, "segment_lengths")
    names = {name: table.column(name).to_pylist() for name in ("window_id", "source", "offset")}
    document_ids = table.column("document_ids").to_pylist()
    rows = []
    for row in range(table.num_rows):
        input_ids_L = input_ids_N[token_offsets[row] : token_offsets[row + 1]]
        mask_T = mask_N[mask_offsets[row] : mask_offsets[row + 1]]
        _check_length(len(input_ids_L) - 1, len(mask_T), where, row)
        rows.append(
            {
                "window_id": names["window_id"][row],
                "source": names["source"][row],
                "offset": names["offset"][row],
                "document_ids": tuple(document_ids[row]),
                "input_ids_L": input_ids_L,
                "mask_T": mask_T,
                "segment_lengths_S": segment_lengths_N[
                    segment_offsets[row] : segment_offsets[row + 1]
                ],
            }
        )
    return rows


def _lists(arrays: Sequence[Array]) -> pa.Array:
    """Return one list per array, of its scalars."""
    values = np.ascontiguousarray(np.concatenate(arrays)) if arrays else np.empty(0, np.int32)
    return pa.ListArray.from_arrays(_offsets(arrays), pa.array(values))


def _blobs(arrays: Sequence[Array]) -> pa.Array:
    """Return one list per array [T, K], of its rows as bytes."""
    values = np.ascontiguousarray(np.concatenate(arrays))
    width = values.shape[1] * values.itemsize
    blobs = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), len(values), [None, pa.py_buffer(values)]
    )
    return pa.ListArray.from_arrays(_offsets(arrays), blobs)


def _offsets(arrays: Sequence[Array]) -> pa.Array:
    return pa.array(np.cumsum([0, *(len(array) for array in arrays)]), pa.int32())


def _flat(table: pa.Table, name: str) -> tuple[Array, Array]:
    """Return a list column as offsets [rows + 1] and contiguous values, without copying."""
    column = table.column(name)
    # combine_chunks copies even a single chunk.
    column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    offsets = column.offsets.to_numpy()
    values = column.values
    if pa.types.is_fixed_size_binary(values.type):
        width = values.type.byte_width
        flat = np.frombuffer(values.buffers()[1] or b"", np.uint8)
        rows = flat[values.offset * width : (values.offset + len(values)) * width]
        return offsets, rows.reshape(len(values), width)
    return offsets, values.to_numpy(zero_copy_only=False)


def _check_same(offsets: Array, found: Array, where: str, name: str) -> None:
    if not np.array_equal(offsets, found):
        raise CorruptionError(
            f"{where}, column {name}",
            expected="as many positions in every window as column top_logit has",
            found="another number of positions",
            next_step="Restore the file from a copy, or build the store again.",
        )


def _check_length(expected: int, found: int, where: str, row: int) -> None:
    if expected != found:
        raise CorruptionError(
            f"{where}, row {row}",
            expected=f"{expected} positions for {expected + 1} tokens",
            found=f"{found}",
            next_step="Restore the file from a copy, or build the store again.",
        )
