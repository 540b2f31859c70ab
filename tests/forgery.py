"""Stores that someone made by hand: every checksum holds, and what stands there is another's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.hashes import checksum, hash_bytes
from softtargets.store.fingerprint import fingerprint_of
from softtargets.store.foreign_shard_table import decode_shard_table
from softtargets.store.schema import METADATA_KEY
from softtargets.store.shard_table import ShardTable
from softtargets.store.shard_table_file import encode_shard_table

Change = Callable[[Any], None]
TableChange = Callable[[pa.Table], pa.Table]


def read_manifest(store: Path) -> dict[str, Any]:
    """Return a manifest with its list of shards, wherever that stands."""
    manifest: dict[str, Any] = json.loads((store / "manifest.json").read_text())
    if "shard_table" in manifest:
        content = (store / manifest["shard_table"]["path"]).read_bytes()
        num_shards = manifest["shard_table"]["num_shards"]
        shards = decode_shard_table(content, num_shards, str(store))
        manifest["shards"] = [entry.to_dict() for entry in shards]
    return manifest


def write_manifest(store: Path, manifest: dict[str, Any]) -> None:
    """Write what `read_manifest` returned."""
    if "shard_table" in manifest:
        content = encode_shard_table(ShardTable.from_dicts(manifest.pop("shards")))
        (store / manifest["shard_table"]["path"]).write_bytes(content)
        manifest["shard_table"] |= {"num_bytes": len(content), "sha256": hash_bytes(content)}
    (store / "manifest.json").write_text(json.dumps(manifest))


def forge_manifest(store: Path, change: Change) -> None:
    """Change a manifest in place, and make the fingerprint of its identity right again."""
    path = store / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if isinstance(manifest.get("identity"), dict):
        manifest["fingerprint"] = fingerprint_of(manifest["identity"])
    path.write_text(json.dumps(manifest))


def forge_shard(store: Path, change: TableChange, unit: int = 0, **options: Any) -> None:
    """Write a shard anew from a changed table, as one row group; `options` are pyarrow's.

    The store's identity is written in it, whatever became of that.
    """
    manifest = read_manifest(store)
    table = change(pq.read_table(store / manifest["shards"][unit]["path"]))
    metadata = {
        "format_version": manifest["format_version"],
        "fingerprint": manifest["fingerprint"],
        "unit": unit,
        "targets": manifest["identity"]["targets"],
    }
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(metadata).encode()})
    sink = pa.BufferOutputStream()
    # Small batches would take twice as long for millions of values.
    own = {"compression": "zstd", "row_group_size": 1 << 30, "write_batch_size": 1 << 16}
    pq.write_table(table, sink, **own | options)
    put_shard(store, sink.getvalue().to_pybytes(), unit, num_windows=table.num_rows)


def put_shard(store: Path, content: bytes, unit: int = 0, **counts: int) -> None:
    """Put a file in a shard's place; its manifest then knows of one row group that it has."""
    footer_bytes = int.from_bytes(content[-8:-4], "little") + 8
    data = content[:-footer_bytes]

    manifest = read_manifest(store)
    entry = manifest["shards"][unit]
    [group] = entry["row_groups"][:1]
    (store / entry["path"]).write_bytes(content)
    entry |= {
        "num_bytes": len(content),
        "sha256": hash_bytes(content),
        "footer_bytes": footer_bytes,
        "footer_xxh3": checksum(content[-footer_bytes:]),
        "row_groups": [
            {**group, **counts, "offset": 0, "num_bytes": len(data), "xxh3": checksum(data)}
        ],
    }
    write_manifest(store, manifest)


def forge_side_file(store: Path, name: str, content: bytes) -> None:
    """Put a file beside the shards, which the manifest then means."""
    suffix = "safetensors" if name == "layers" else "parquet"
    (store / f"{name}.{suffix}").write_bytes(content)
    entry = {"num_bytes": len(content), "sha256": hash_bytes(content)}
    field = {"head": "output_head"}.get(name, name)
    forge_manifest(store, lambda manifest: manifest.update({field: entry}))


def with_tensors(content: bytes, change: Change) -> bytes:
    """Return a file of safetensors with a changed header."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def with_column(name: str, values: Any, kind: pa.DataType | None = None) -> TableChange:
    """Return what puts other values in a column of a table."""

    def change(table: pa.Table) -> pa.Table:
        index = table.column_names.index(name)
        own = table.schema.field(index).type if kind is None else kind
        array = values if isinstance(values, pa.Array) else pa.array(values, own)
        field = pa.field(name, own, nullable=pa.types.is_null(own))
        return table.set_column(index, field, array.cast(own))

    return change


def list_of_lists(values: pa.Array, num_rows: int) -> pa.Array:
    """Return values as lists of equal length, one for each row."""
    offsets = pa.array([len(values) * row // num_rows for row in range(num_rows + 1)], pa.int32())
    return pa.ListArray.from_arrays(offsets, values)


def with_zeros(column: str, num: int) -> TableChange:
    """Return what puts a number of zeros into a column of lists of a table of 4 rows."""
    return with_column(column, list_of_lists(pa.array(np.zeros(num, np.int32)), 4))


def with_texts(length: int, num: int) -> TableChange:
    """Return what puts a number of equal texts into the names of documents of such a table."""
    return with_column("document_ids", list_of_lists(pa.array(["y" * length] * num), 4))
