"""Stores in layouts that other people's trainers read."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.errors import StoreError
from softtargets.store.files import make_directory, write_file
from softtargets.store.plain import plain_table
from softtargets.store.side_file import read_side_file
from softtargets.store.store import Store
from softtargets.store.vocabulary import VOCABULARY_NAME
from softtargets.targets import HeadWeights


def export_plain(path: str | Path, output: str | Path) -> Path:
    """Write a store as Parquet with nested lists, one file for each shard; return the directory.

    The columns are those of `plain_table`. The output head, if there is one, becomes
    `_head.parquet` with a row for each id: `weight` (a list) and `bias`; readers of a directory
    skip files that begin so. The vocabulary is copied to `_vocabulary.parquet`. The store's
    fingerprint and its targets are in each file's metadata under `softtargets`.

    Raises:
        StoreError: the store cannot be read, or the output is not an empty directory.
    """
    store = Store.open(path)
    directory = Path(output)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise StoreError(
            str(directory),
            expected="an empty directory, or nothing yet",
            found="something else",
            next_step="Choose another output directory.",
        )
    make_directory(directory)
    metadata = json.dumps({"fingerprint": store.fingerprint, "targets": store.targets.to_dict()})
    for shard, entry in enumerate(store.manifest.shards):
        with store.open_shard(shard) as reader:
            tables = [
                plain_table(reader.read_row_group(group), store.targets)
                for group in range(len(entry.row_groups))
            ]
        table = pa.concat_tables(tables).replace_schema_metadata({"softtargets": metadata})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        write_file(directory / f"part-{shard:06d}.parquet", sink.getvalue().to_pybytes())
    if store.targets.output_head is not None:
        write_file(directory / "_head.parquet", _plain_head(store.output_head(), metadata))
    if store.manifest.vocabulary is not None:
        content = read_side_file(store.location, VOCABULARY_NAME, store.manifest.vocabulary)
        write_file(directory / f"_{VOCABULARY_NAME}", content)
    return directory


def _plain_head(head: HeadWeights, metadata: str) -> bytes:
    columns = {"weight": pa.array(list(head.weight_VD), pa.list_(pa.float32()))}
    if head.bias_V is not None:
        columns["bias"] = pa.array(head.bias_V)
    sink = pa.BufferOutputStream()
    table = pa.table(columns).replace_schema_metadata({"softtargets": metadata})
    pq.write_table(table, sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content
