"""Stores in layouts that other people's trainers read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.errors import StoreError
from softtargets.store.codec import encode_tokens
from softtargets.store.files import make_directory, write_file
from softtargets.store.store import Store
from softtargets.window import Window


def export_plain(path: str | Path, output: str | Path) -> Path:
    """Write a store as Parquet with nested lists, one file for each shard; return the directory.

    Columns: those that say what was scored, then for each position `ids` (list<list<int32>>),
    `logprobs_t<T>` (list<list<float>>) and `tail_mass_t<T>` for each temperature of the grid,
    `label_logit` and `label_rank`. Entries past a position's count are not written. The store's
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
                _plain_table(reader.read_row_group(group), store)
                for group in range(len(entry.row_groups))
            ]
        table = pa.concat_tables(tables).replace_schema_metadata({"softtargets": metadata})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        write_file(directory / f"part-{shard:06d}.parquet", sink.getvalue().to_pybytes())
    return directory


def _plain_table(windows: Sequence[Window], store: Store) -> pa.Table:
    targets = [window.targets for window in windows]
    counts = [one.num_entries_T for one in targets]
    kept = [np.isfinite(one.logits_TK) for one in targets]
    columns = encode_tokens(windows)
    ids = [one.ids_TK[mask] for one, mask in zip(targets, kept, strict=True)]
    columns["ids"] = _nested(ids, counts)
    for index, temperature in enumerate(store.targets.temperatures):
        tail_column = store.targets.tail_columns[index]
        logprobs = [
            one.logprobs_TK(temperature)[mask] for one, mask in zip(targets, kept, strict=True)
        ]
        columns[tail_column.replace("tail_mass", "logprobs")] = _nested(logprobs, counts)
        columns[tail_column] = pa.array([one.tail_mass_TG[:, index] for one in targets])
    columns["label_logit"] = pa.array([one.label_logit_T for one in targets])
    columns["label_rank"] = pa.array([one.label_rank_T for one in targets])
    return pa.table(columns)


def _nested(values: Sequence[np.ndarray], counts: Sequence[np.ndarray]) -> pa.Array:
    """Return a list of lists: for each window, for each position, its entries."""
    inner = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    outer = np.cumsum([0, *(len(one) for one in counts)])
    entries = pa.ListArray.from_arrays(
        pa.array(inner, pa.int32()), pa.array(np.concatenate(values))
    )
    return pa.ListArray.from_arrays(pa.array(outer, pa.int32()), entries)
