"""Files that are small and stand for much, or say what is not so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MANY = 70_000_000
"""Entries of 8 bytes, and of as many again while they are unpacked: more than `MOST_BYTES`."""


def one_row(path: Path, num_entries: int, **options: Any) -> Path:
    """Write `table_of_one` as a Parquet file."""
    # Few batches: each costs as much as many thousand values.
    quick = {"write_batch_size": 1 << 20, "compression": "zstd"}
    pq.write_table(table_of_one(num_entries), path, **(quick | options))
    return path


def table_of_one(num_entries: int) -> pa.Table:
    """Return a row of two tokens in whose first list so many entries are the same."""

    def nested(value: Any) -> pa.Array:
        # Zeros that nobody writes take no memory.
        entries = pa.array(np.zeros(num_entries, type(value)))
        ends = pa.array([0, num_entries], pa.int64())
        lists = pa.LargeListArray.from_arrays(ends, entries)
        return pa.LargeListArray.from_arrays(pa.array([0, 1], pa.int64()), lists)

    columns = {
        "input_ids": pa.array([[1, 2]], pa.list_(pa.int32())),
        "logprobs": nested(np.float32(0)),
        "target_token_ids": nested(np.int32(0)),
    }
    return pa.table(columns)


def forge_number(path: Path, old: int, new: int) -> None:
    """Write another number into a Parquet file's footer, in as many bytes."""
    content = path.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    wanted = _varint(2 * old, 0)
    footer = content[start:].replace(wanted, _varint(2 * new, len(wanted)))
    assert footer != content[start:]
    path.write_bytes(content[:start] + footer)


def _varint(number: int, num_bytes: int) -> bytes:
    groups: list[int] = []
    while number or not groups or len(groups) < num_bytes:
        groups.append(number & 127)
        number >>= 7
    return bytes([*(one | 128 for one in groups[:-1]), groups[-1]])
