"""The teacher's output head as a plain file: a row for each id, of lists of numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.errors import CorpusError
from softtargets.kinds import TargetSchema
from softtargets.store.layouts.files import METADATA_KEY, list_files, read_batches
from softtargets.store.layouts.lists import read_lists
from softtargets.targets import HeadWeights


def plain_head(head: HeadWeights, metadata: str) -> bytes:
    """Return the Parquet file of an output head: `weight`, a list, and `bias` if there is one."""
    columns = {"weight": pa.array(list(head.weight_VD), pa.list_(pa.float32()))}
    if head.bias_V is not None:
        columns["bias"] = pa.array(head.bias_V)
    sink = pa.BufferOutputStream()
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: metadata})
    pq.write_table(table, sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read_plain_head(path: Path, schema: TargetSchema) -> HeadWeights:
    """Return the output head of a plain file; writing it into a store checks its content's hash.

    Raises:
        CorpusError: the file is missing, or of other sizes than the targets say.
    """
    head = schema.output_head
    assert head is not None
    weights, biases = [], []
    for _, batch in read_batches(list_files([path])[0]):
        weights.append(read_lists(batch, "weight", str(path), "numbers").values)
        if head.bias:
            biases.append(batch.column("bias").to_numpy(zero_copy_only=False))
    flat = np.concatenate(weights) if weights else np.empty(0)
    num_biases = sum(len(one) for one in biases)
    if len(flat) != schema.vocab_size * head.width or num_biases != head.bias * schema.vocab_size:
        raise CorpusError(
            str(path),
            expected=f"{schema.vocab_size} rows of {head.width} weights",
            found=f"{len(flat)} weights and {num_biases} biases",
            next_step="Export the store to the plain layout again.",
        )
    return HeadWeights(
        weight_VD=flat.astype(np.float32).reshape(schema.vocab_size, head.width),
        bias_V=np.concatenate(biases).astype(np.float32) if head.bias else None,
        dtype=head.dtype,
        scale=head.scale,
        divisor=head.divisor,
        softcap=head.softcap,
    )
