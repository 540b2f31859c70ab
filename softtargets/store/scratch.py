"""Memory that Parquet files are read into, and the errors of reading them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

from softtargets.errors import CorruptionError, SoftTargetsError, error_text
from softtargets.targets import UInt8


class _Kept(threading.local):
    """Memory of a thread that files are read into, again and again: fresh memory costs time."""

    memory: UInt8 | None = None


_KEPT = _Kept()
_MOST_KEPT_BYTES = 64 * 2**20


def scratch(num_bytes: int) -> UInt8:
    """Return memory as long as a shard, which the next call in this thread returns again.

    A row group is read to its place in the shard; what is never touched costs addresses only.
    pyarrow copies whatever it decodes, so nothing refers to this memory afterwards.
    """
    if num_bytes > _MOST_KEPT_BYTES:
        return np.empty(num_bytes, np.uint8)
    if _KEPT.memory is None or len(_KEPT.memory) < num_bytes:
        _KEPT.memory = np.empty(num_bytes, np.uint8)
    return _KEPT.memory[:num_bytes]


def as_file(content: UInt8) -> pa.BufferReader:
    """Return bytes as a file, without a copy."""
    return pa.BufferReader(pa.py_buffer(content))


@contextmanager
def parquet_errors(where: str) -> Iterator[None]:
    """Turn what pyarrow raises on damaged files into a CorruptionError that names the place."""
    try:
        yield
    except SoftTargetsError:
        raise
    except (pa.ArrowException, MemoryError, OSError, ValueError, KeyError) as error:
        raise CorruptionError(
            where,
            expected="a readable Parquet file whose checksums hold",
            found=error_text(error),
        ) from error
