"""Tensors as bytes of Arrow IPC, as they leave a worker: no Python object is made for a token.

A record batch has a column for each tensor, and a cell for each row of it. numpy has no bfloat16,
so cells are bytes, and the schema's metadata says which number format and shape they have.

Shapes: N rows of every tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch

_METADATA = b"tensors"


def tensors_to_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Return tensors [N, ...] on any device as bytes."""
    described, columns = {}, {}
    for name, tensor in tensors.items():
        described[name] = [str(tensor.dtype).removeprefix("torch."), *tensor.shape]
        if tensor.numel():
            raw = tensor.contiguous().cpu().view(torch.uint8).numpy()
            width = raw.size // len(tensor)
            cells = pa.py_buffer(raw)
            columns[name] = pa.Array.from_buffers(pa.binary(width), len(tensor), [None, cells])
    schema = pa.schema(
        [(name, column.type) for name, column in columns.items()],
        metadata={_METADATA: json.dumps(described).encode()},
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        if columns:
            stream.write_batch(pa.record_batch(list(columns.values()), schema=schema))
    written: bytes = sink.getvalue().to_pybytes()
    return written


def tensors_from_bytes(written: bytes) -> dict[str, torch.Tensor]:
    """Return the tensors that `tensors_to_bytes` wrote, on the host."""
    with pa.ipc.open_stream(written) as stream:
        table = stream.read_all()
    found = {}
    for name, (dtype, *shape) in json.loads(table.schema.metadata[_METADATA]).items():
        if not math.prod(shape):
            found[name] = torch.empty(shape, dtype=getattr(torch, dtype))
            continue
        (cells,) = table.column(name).chunks
        raw = np.frombuffer(cells.buffers()[1], np.uint8)
        # A copy, as what lies in bytes may not be written to.
        found[name] = torch.from_numpy(raw.copy()).view(getattr(torch, dtype)).reshape(shape)
    return found
