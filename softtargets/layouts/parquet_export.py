"""A store as a directory of Parquet files: one for each shard, which say what they are of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.layouts.foreign_files import METADATA_KEY
from softtargets.places.local_files import check_is_new, make_directory, write_file
from softtargets.store.store import Store
from softtargets.window import Window

ABOUT_NAME = "softtargets.json"


def describe_store(store: Store) -> dict[str, Any]:
    """Return what every export says of the store that it was written from."""
    return {"fingerprint": store.fingerprint, "targets": store.targets.to_dict()}


def new_directory(output: str | Path) -> Path:
    """Return the directory of an export, made if it is not there.

    Raises:
        StoreError: something is in it, or it cannot be made.
    """
    directory = Path(output)
    check_is_new(directory)
    make_directory(directory)
    return directory


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write an object for people and programs to read."""
    write_file(path, (json.dumps(data, indent=1) + "\n").encode())


def write_shards(
    store: Store,
    directory: Path,
    about: Mapping[str, Any],
    tables: Callable[[Iterator[list[Window]]], Iterable[pa.Table]],
) -> None:
    """Write every shard that has rows as a file; `tables` makes its row groups of ours."""
    make_directory(directory)
    metadata = {METADATA_KEY: json.dumps(about)}
    for shard, entry in enumerate(store.manifest.shards):
        sink = pa.BufferOutputStream()
        with store.open_shard(shard) as reader, ExitStack() as stack:
            writer = None
            groups = (reader.read_row_group(group) for group in range(len(entry.row_groups)))
            for table in tables(groups):
                if writer is None:
                    schema = table.schema.with_metadata(metadata)
                    writer = stack.enter_context(pq.ParquetWriter(sink, schema, compression="zstd"))
                writer.write_table(table)
        if writer is not None:
            content = sink.getvalue().to_pybytes()
            write_file(directory / f"part-{shard:06d}.parquet", content)
