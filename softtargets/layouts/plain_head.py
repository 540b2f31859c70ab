"""The teacher's output head as a plain file: a row for each id, of lists of numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.errors import CorpusError
from softtargets.layouts.foreign_files import METADATA_KEY, list_files, open_files
from softtargets.layouts.lists import read_lists, read_numbers
from softtargets.limits import Limit
from softtargets.targets import HeadWeights, TargetSchema


def plain_head(head: HeadWeights, metadata: str) -> bytes:
    """Return the Parquet file of an output head: `weight`, a list, and `bias` if there is one.

    Its rows are those of `HeadWeights.rows`.
    """
    weight_RD, bias_R = head.rows()
    columns = {"weight": pa.array(list(weight_RD), pa.list_(pa.float32()))}
    if bias_R is not None:
        columns["bias"] = pa.array(bias_R)
    sink = pa.BufferOutputStream()
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: metadata})
    pq.write_table(table, sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


HEAD_LIMIT = Limit(variable="SOFTTARGETS_MAX_HEAD_BYTES", default=1 << 27, unit="bytes")
"""Of an output head more than `_GROWTH` times larger than its file: weights hardly compress."""
_GROWTH = 8


def read_plain_head(path: Path, schema: TargetSchema) -> HeadWeights:
    """Return the output head of a plain file; writing it into a store checks its content's hash.

    Raises:
        CorpusError: the file is missing, or of other sizes than the targets say.
        LimitError: it unpacks to more than it is trusted with.
    """
    head = schema.output_head
    assert head is not None
    [file] = open_files(list_files([path]), ("weight", "bias") if head.bias else ("weight",))
    num_rows = schema.vocab_size + head.num_own_rows
    num_bytes = num_rows * head.width * np.dtype(np.float32).itemsize
    if num_bytes > _GROWTH * path.stat().st_size:
        HEAD_LIMIT.check(str(path), num_bytes)
    _check(path, file.num_rows == num_rows, schema, f"{file.num_rows} rows")
    weight_RD = np.empty((num_rows, head.width), np.float32)
    bias_R = np.empty(num_rows, np.float32) if head.bias else None
    for first, batch in file.batches():
        rows = slice(first, first + batch.num_rows)
        weights = read_lists(batch, "weight", str(path), "numbers")
        widths = np.diff(weights.bounds)
        _check(path, bool((widths == head.width).all()), schema, f"widths {set(widths.tolist())}")
        weight_RD[rows] = weights.values.reshape(-1, head.width)
        if bias_R is not None:
            bias_R[rows] = read_numbers(batch, "bias", str(path))
    return HeadWeights.of_rows(head, weight_RD, bias_R)


def _check(path: Path, holds: bool, schema: TargetSchema, found: str) -> None:
    assert schema.output_head is not None
    if not holds:
        raise CorpusError(
            str(path),
            expected=f"{schema.vocab_size + schema.output_head.num_own_rows} rows of "
            f"{schema.output_head.width} weights",
            found=found,
            next_step="Export the store to the plain layout again.",
        )
