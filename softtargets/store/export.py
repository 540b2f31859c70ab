"""Stores in layouts that other people's trainers read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.errors import StoreError
from softtargets.kinds import TargetSchema, temperature_text
from softtargets.store.codec import encode_tokens
from softtargets.store.files import make_directory, write_file
from softtargets.store.schema import grid_columns
from softtargets.store.side_file import read_side_file
from softtargets.store.store import Store
from softtargets.store.vocabulary import VOCABULARY_NAME
from softtargets.targets import Float32, HeadWeights, Int32, Samples, SoftTargets
from softtargets.window import Window


def export_plain(path: str | Path, output: str | Path) -> Path:
    """Write a store as Parquet with nested lists, one file for each shard; return the directory.

    Columns: those that say what was scored, then what the store has of these, for each position:
    `ids` and, for each temperature of the grid, `logprobs_t<T>` (lists of lists) with
    `tail_mass_t<T>`, or `logits` where the grid is empty; `sample_ids`, `sample_counts` and
    `sample_logits`; `logsumexp_t<T>`; `label_logit` and `label_rank`; `class_logits` and
    `feature_<name>` (lists of vectors). The output head, if there is one, becomes `_head.parquet`
    with a row for each id: `weight` (a list) and `bias`; readers of a directory skip files that
    begin so. The vocabulary is copied to `_vocabulary.parquet`. Entries past a position's count are
    not written. The store's fingerprint and its targets are in each file's metadata under
    `softtargets`.

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
                _plain_table(reader.read_row_group(group), store.targets)
                for group in range(len(entry.row_groups))
            ]
        table = pa.concat_tables(tables).replace_schema_metadata({"softtargets": metadata})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        write_file(directory / f"part-{shard:06d}.parquet", sink.getvalue().to_pybytes())
    if store.targets.output_head is not None:
        write_file(directory / "_head.parquet", _plain_head(store.output_head(), metadata))
    if store.manifest.vocabulary is not None:
        content = read_side_file(store.root, VOCABULARY_NAME, store.manifest.vocabulary)
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


def _plain_table(windows: Sequence[Window], schema: TargetSchema) -> pa.Table:
    columns = encode_tokens(windows)
    targets = [window.targets for window in windows]
    if schema.head is not None:
        columns |= _head_columns(targets, schema)
    for index, name in enumerate(grid_columns(schema)):
        grids = [one.tail_mass_TG if schema.head else one.logsumexp_TG for one in targets]
        columns[name] = pa.array([grid[:, index] for grid in grids if grid is not None])
    if schema.samples is not None:
        columns |= _sample_columns([one.samples for one in targets if one.samples is not None])
    if schema.label_logits:
        columns["label_logit"] = pa.array([one.label_logit_T for one in targets])
        columns["label_rank"] = pa.array([one.label_rank_T for one in targets])
    if schema.num_classes:
        logits = [one.class_logits_TC for one in targets if one.class_logits_TC is not None]
        columns["class_logits"] = _vectors(logits)
    for feature in schema.features:
        columns[f"feature_{feature.name}"] = _vectors(
            [one.features[feature.name] for one in targets]
        )
    return pa.table(columns)


def _head_columns(targets: Sequence[SoftTargets], schema: TargetSchema) -> dict[str, pa.Array]:
    counts = [one.num_entries_T for one in targets]
    kept = [np.isfinite(one.logits_TK) for one in targets]

    def entries(arrays: Iterable[Float32 | Int32]) -> pa.Array:
        return _nested([array[mask] for array, mask in zip(arrays, kept, strict=True)], counts)

    columns = {"ids": entries(one.ids_TK for one in targets)}
    for temperature in schema.temperatures:
        columns[f"logprobs_t{temperature_text(temperature)}"] = entries(
            one.logprobs_TK(temperature) for one in targets
        )
    if not schema.temperatures:
        columns["logits"] = entries(one.logits_TK for one in targets)
    return columns


def _sample_columns(samples: Sequence[Samples]) -> dict[str, pa.Array]:
    counts = [one.num_samples_T for one in samples]
    columns = {
        "sample_ids": _nested([one.ids_S for one in samples], counts),
        "sample_counts": _nested([one.counts_S for one in samples], counts),
    }
    logits = [one.logits_S for one in samples if one.logits_S is not None]
    if logits:
        columns["sample_logits"] = _nested(logits, counts)
    return columns


def _vectors(arrays: Sequence[Float32]) -> pa.Array:
    """Return a list of lists: for each window, its rows."""
    return _nested(
        [array.ravel() for array in arrays],
        [np.full(len(array), array.shape[1], np.int32) for array in arrays],
    )


def _nested(values: Sequence[Float32 | Int32], counts: Sequence[Int32]) -> pa.Array:
    """Return a list of lists: for each window, for each position, its entries."""
    inner = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    outer = np.cumsum([0, *(len(one) for one in counts)])
    entries = pa.ListArray.from_arrays(
        pa.array(inner, pa.int32()), pa.array(np.concatenate(values))
    )
    return pa.ListArray.from_arrays(pa.array(outer, pa.int32()), entries)
