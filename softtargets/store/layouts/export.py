"""Stores in layouts that other people's trainers read: one Parquet file for each shard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from softtargets.places.local_files import check_is_new, make_directory, write_file
from softtargets.store.layouts.axolotl import axolotl_columns, axolotl_config
from softtargets.store.layouts.compression import CONFIG_NAME, Compression, ValueFormat
from softtargets.store.layouts.distillkit import distillkit_columns, distillkit_config
from softtargets.store.layouts.files import METADATA_KEY
from softtargets.store.layouts.plain import plain_table
from softtargets.store.layouts.plain_head import plain_head
from softtargets.store.layouts.readme import describe_loss, readme_text
from softtargets.store.layouts.sequences import Values, batched, view_head
from softtargets.store.output_head import OUTPUT_HEAD_NAME
from softtargets.store.side_file import read_side_file
from softtargets.store.store import Store
from softtargets.store.vocabulary import VOCABULARY_NAME
from softtargets.window import Window

ABOUT_NAME = "softtargets.json"
DATA_NAME = "data"
_TABLE_TOKENS = 4096


def export_plain(path: str | Path, output: str | Path) -> Path:
    """Write a store as Parquet with nested lists, one file for each shard; return the directory.

    The columns are those of `plain_table`. The output head, if there is one, becomes
    `_head.parquet` with a row for each id: `weight` (a list) and `bias`; readers of a directory
    skip files that begin so. The vocabulary is copied to `_vocabulary.parquet`. The store's
    fingerprint, its targets and its identity are in each file's metadata under `softtargets`, and
    in `_softtargets.json`; `import_plain` makes the store of it again.

    Raises:
        StoreError: the store cannot be read, or the output is not an empty directory.
    """
    store, directory = Store.open(path), _new_directory(Path(output))
    manifest = store.manifest
    about = _about(store) | {
        "teacher": manifest.teacher,
        "corpus": dict(manifest.corpus),
        "identity": dict(manifest.identity),
    }

    def tables(groups: Iterator[Sequence[Window]]) -> Iterator[pa.Table]:
        # One large row group is a quarter smaller than several.
        yield pa.concat_tables(plain_table(windows, store.targets) for windows in groups)

    _write_shards(store, directory, about, tables)
    metadata = json.dumps(about)
    if store.targets.output_head is not None:
        head = plain_head(store.output_head(), metadata)
        write_file(directory / f"_{OUTPUT_HEAD_NAME}", head)
    if store.manifest.vocabulary is not None:
        content = read_side_file(store.location, VOCABULARY_NAME, store.manifest.vocabulary)
        write_file(directory / f"_{VOCABULARY_NAME}", content)
    write_file(directory / f"_{ABOUT_NAME}", _json({"layout": "plain", **about}))
    return directory


def export_axolotl(
    path: str | Path,
    output: str | Path,
    *,
    temperature: float = 1.0,
    values: Values = "renormalised",
    top_k: int | None = None,
    without_draws: bool = False,
) -> Path:
    """Write a store's head as a dataset prepared for axolotl's KD trainer; return the directory.

    Args:
        path: the store.
        output: an empty directory, or none yet.
        temperature: of the softmax; axolotl cannot change it afterwards, its `kd_temperature` has
            to be the same.
        values: log-probabilities over the kept entries alone, as axolotl prepares them, or of the
            whole vocabulary's softmax, with `kd_normalize_topk` false.
        top_k: how many entries to write, by default all.
        without_draws: write the head of a store with draws, which are lost.

    Raises:
        InputError: the layout cannot hold such targets.
        TemperatureError: the temperature is not in the store's grid.
        StoreError: the store cannot be read, or the output is not an empty directory.
    """
    store = Store.open(path)
    view = view_head(store, temperature, values, top_k, without_draws=without_draws)
    directory = _new_directory(Path(output))

    def tables(groups: Iterator[Sequence[Window]]) -> Iterator[pa.Table]:
        sequences = [one for windows in groups for one in view.sequences(windows)]
        if sequences:
            yield pa.table(axolotl_columns(sequences, view))

    about = _about(store) | {
        "layout": "axolotl",
        "values": values,
        "temperature": temperature,
        "lost": describe_loss(store.targets, view, "axolotl"),
    }
    _write_shards(store, directory / DATA_NAME, about, tables)
    _write_about(directory, store, about, axolotl_config(view))
    return directory


def export_distillkit(
    path: str | Path,
    output: str | Path,
    *,
    value_format: ValueFormat = "float32",
    top_k: int | None = None,
    without_draws: bool = False,
) -> Path:
    """Write a store's head as DistillKit's compressed columns; return the directory.

    The log-probabilities are those at temperature 1, from which its trainer computes others. Every
    row has as many tokens as the longest document; `compression_config.yaml` says what is in it.

    Args:
        path: the store.
        output: an empty directory, or none yet.
        value_format: in which log-probabilities are kept; float16 has an error of 2^-11 of them.
        top_k: how many entries to write, by default all.
        without_draws: write the head of a store with draws, which are lost.

    Raises:
        InputError: the layout cannot hold such targets.
        TemperatureError: temperature 1 is not in the store's grid.
        StoreError: the store cannot be read, or the output is not an empty directory.
    """
    store = Store.open(path)
    view = view_head(store, 1.0, "full", top_k, without_draws=without_draws)
    compression = Compression(
        d=max(2, store.targets.vocab_size),
        k=view.top_k,
        exact_k=view.top_k,
        exact_dtype=value_format,
    )
    row_tokens = _longest_segment(store)
    directory = _new_directory(Path(output))

    def tables(groups: Iterator[Sequence[Window]]) -> Iterator[pa.Table]:
        sequences = (one for windows in groups for one in view.sequences(windows))
        # Short documents are padded to the longest, which a few rows at a time bear.
        for some in batched(sequences, max(1, _TABLE_TOKENS // row_tokens)):
            yield pa.table(distillkit_columns(some, compression, row_tokens))

    about = _about(store) | {
        "layout": "distillkit",
        "values": "full",
        "temperature": 1.0,
        "lost": describe_loss(store.targets, view, "distillkit"),
    }
    _write_shards(store, directory / DATA_NAME, about, tables)
    _write_about(directory, store, about, distillkit_config(compression, row_tokens))
    write_file(directory / CONFIG_NAME, yaml.safe_dump(compression.to_dict()).encode())
    return directory


def _about(store: Store) -> dict[str, Any]:
    return {"fingerprint": store.fingerprint, "targets": store.targets.to_dict()}


def _new_directory(directory: Path) -> Path:
    check_is_new(directory)
    make_directory(directory)
    return directory


def _write_shards(
    store: Store,
    directory: Path,
    about: Mapping[str, Any],
    tables: Callable[[Iterator[Sequence[Window]]], Iterator[pa.Table]],
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


def _write_about(
    directory: Path, store: Store, about: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    write_file(directory / ABOUT_NAME, _json({**about, "config": config}))
    write_file(directory / "README.md", readme_text(store, about, config).encode())


def _json(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()


def _longest_segment(store: Store) -> int:
    longest = 0
    for shard in range(len(store.manifest.shards)):
        with store.open_shard(shard) as reader:
            column = reader.read_columns(["segment_lengths"]).column(0)
        longest = max(longest, *(int(np.max(chunk.values)) for chunk in column.chunks))
    return longest
