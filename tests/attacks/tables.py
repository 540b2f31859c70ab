"""Attacks by the table that lists the shards of a store."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.hashes import hash_bytes
from tests.attacks.attack import Attack, command
from tests.forgery import forge_manifest
from tests.golden import GOLDEN

_KIND = "a table of shards that asks for memory or time"
_STORE = GOLDEN / "shard-table-1.6" / "store"


def _columns(num_shards: int) -> dict[str, pa.Array]:
    """Return the columns of shards that are alike and could be, but that all have one path."""
    groups = {
        "num_windows": _equal(num_shards, 1),
        "num_positions": _equal(num_shards, 1),
        "offset": _equal(num_shards, 0),
        "num_bytes": _equal(num_shards, 100),
        "xxh3": _binary(num_shards, 8),
    }
    offsets = pa.array(np.arange(num_shards + 1, dtype=np.int32))
    element = pa.StructArray.from_arrays(list(groups.values()), names=list(groups))
    return {
        "unit": pa.array(np.arange(num_shards)),
        "path": _texts(["shards/unit-000000.parquet"], num_shards),
        "num_bytes": _equal(num_shards, 130),
        "sha256": _binary(num_shards, 32),
        "footer_bytes": _equal(num_shards, 30),
        "footer_xxh3": _binary(num_shards, 8),
        "run": _texts(["{}"], num_shards),
        "row_groups": pa.ListArray.from_arrays(offsets, element),
    }


def _equal(num_values: int, value: int) -> pa.Array:
    return pa.array(np.full(num_values, value))


def _binary(num_values: int, width: int) -> pa.Array:
    buffers = [None, pa.py_buffer(bytes(num_values * width))]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), num_values, buffers)


def _texts(texts: list[str], num_values: int) -> pa.Array:
    """Return texts in turn."""
    numbers = pa.array(np.arange(num_values, dtype=np.int32) % len(texts))
    return pa.DictionaryArray.from_arrays(numbers, pa.array(texts))


def _write(directory: Path, num_shards: int, **columns: pa.Array) -> None:
    root = Path(shutil.copytree(_STORE, directory / "store"))
    sink = pa.BufferOutputStream()
    table = pa.table(_columns(num_shards) | columns)
    pq.write_table(table, sink, compression="zstd", row_group_size=1 << 30, store_schema=False)
    content = sink.getvalue().to_pybytes()
    (root / "shards.parquet").write_bytes(content)
    own = {"num_bytes": len(content), "sha256": hash_bytes(content), "num_shards": num_shards}

    def change(manifest: dict[str, Any]) -> None:
        manifest["shard_table"] |= own

    forge_manifest(root, change)


def _with_path(directory: Path, length: int) -> None:
    path = pa.array([f"shards/{'a' * length}.parquet"], pa.string())
    _write(directory, 1, path=path)


def _with_runs(directory: Path, runs: list[str], num_shards: int) -> None:
    _write(directory, num_shards, run=_texts(runs, num_shards))


_PREPARE: dict[str, Callable[[Path], None]] = {
    "4 million shards": partial(_write, num_shards=4_000_000),
    "as many shards as are trusted": partial(_write, num_shards=850_000),
    "a path of 120 MB": partial(_with_path, length=120_000_000),
    "a run of 2.5 million lists": lambda directory: _with_runs(
        directory, [f'{{"a": [{"[]," * 2_500_000}[]]}}'], 1
    ),
    "a run of 30 million lists": lambda directory: _with_runs(
        directory, [f'{{"a": [{"[]," * 30_000_000}[]]}}'], 1
    ),
    "half a million different runs": lambda directory: _with_runs(
        directory, [f'{{"a":{number}}}' for number in range(500_000)], 500_000
    ),
}

ATTACKS = tuple(
    Attack(kind=_KIND, name=name, prepare=prepare, is_shared=True, run=command("verify", "store"))
    for name, prepare in _PREPARE.items()
)
