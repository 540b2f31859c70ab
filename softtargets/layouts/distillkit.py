"""The compressed columns of DistillKit: ids in bits, log-probabilities in bytes.

`compressed_logprobs` and `bytepacked_indices` have a list of bytes for each token; list j is the
distribution of token j + 1. A configuration, which its trainer needs too, says what the bytes are.
Written is one that keeps every log-probability as a number (`exact_k` = k); of others, in which a
polynomial stands for the lower ranks, only the exact ranks are read: the rest is not the teacher's.
Source: arcee-ai/DistillKit, distillkit/compression and distillkit/trainer.py; see docs/formats.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import yaml

from softtargets.errors import CorpusError, InputError
from softtargets.layouts.distillkit_compression import (
    CONFIG_NAME,
    Compression,
    ValueFormat,
    pack_bits,
    unpack_bits,
)
from softtargets.layouts.layout import Option, Way
from softtargets.layouts.listed_import import LIST_OPTIONS, ListedLayout
from softtargets.layouts.listed_rows import IGNORE_INDEX, ListedRow, ListsOfRow, read_rows
from softtargets.layouts.sequences import EntriesView, TokenSequence, view_entries
from softtargets.layouts.trainer_export import ENTRIES_OPTIONS, TrainerExport
from softtargets.store.store import Store
from softtargets.targets import Array, Int64, UInt8

ABSENT = -8192.0
"""The log-probability of what is no entry: in every number format, and 0 as a probability. What is
-inf elsewhere would make NaN of 0 times it in the trainer's loss."""
_TABLE_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillKit(ListedLayout):
    """Compressed columns; read are captured or packed ones, by their configuration."""

    compression: Compression
    name: ClassVar[str] = "distillkit"
    columns: ClassVar[tuple[str, ...]] = (
        "input_ids",
        "compressed_logprobs",
        "bytepacked_indices",
        "labels",
        "attention_mask",
    )
    reads: ClassVar[Way] = Way(
        "compressed columns.",
        (
            *LIST_OPTIONS,
            Option(
                "compression_config",
                Path,
                f"YAML that the files were captured with.  [default: {CONFIG_NAME} beside them]",
            ),
        ),
    )
    writes: ClassVar[Way] = Way(
        "its compressed columns, with their configuration.",
        (
            Option(
                "value_format",
                ValueFormat,
                "Number format of the log-probabilities.  [default: float32]",
            ),
            *ENTRIES_OPTIONS,
        ),
    )

    @classmethod
    def of(
        cls, paths: Sequence[str | Path], *, compression_config: str | Path | None = None
    ) -> DistillKit:
        """Return the layout of some files, by the configuration beside them or another.

        Raises:
            CorpusError: it is none, or one that keeps no log-probability as a number.
            LimitError: it is larger than it is trusted to be.
        """
        if compression_config is None:
            first = Path(paths[0])
            compression_config = (first if first.is_dir() else first.parent) / CONFIG_NAME
        return cls(compression=Compression.read(Path(compression_config)))

    @classmethod
    def write(
        cls,
        path: str | Path,
        output: str | Path,
        *,
        value_format: ValueFormat = "float32",
        top_k: int | None = None,
        without_draws: bool = False,
    ) -> Path:
        """Write a store's entries as compressed columns, and return the directory.

        The log-probabilities are those at temperature 1, from which the trainer computes others; in
        float16 they have an error of 2^-11 of them. Every row has as many tokens as the longest
        document, and `compression_config.yaml` says what is in it. For the rest see `Layout.write`.
        """
        store = Store.open(path)
        view = view_entries(store, 1.0, "full", top_k, without_draws=without_draws)
        return _export(store, view, value_format).write(output)

    def rows(self, batch: pa.RecordBatch, where: str, first: int) -> Iterator[ListedRow]:
        """Yield the rows of a part of a file.

        Raises:
            CorpusError: the bytes are not what the configuration says.
        """
        values, ids = "compressed_logprobs", "bytepacked_indices"
        for row in read_rows(batch, where, first, ids=ids, values=values, kind="integers"):
            exact = self._unpacked(row)
            exact.check_lists()
            labels_L = exact.check_labels()
            # The trainer counts the targets at tokens that have a label themselves.
            yield exact.placed(0, None if labels_L is None else labels_L >= 0)

    def _unpacked(self, row: ListsOfRow) -> ListsOfRow:
        """Return a row with its exact entries in place of their bytes."""
        own = self.compression
        id_bytes_NB = _square(row.where, *row.ids, own.id_bytes, "bytepacked_indices")
        ids_NK = unpack_bits(id_bytes_NB, own.id_bits, own.k)[:, : own.exact_k]
        # Bytes of a fit follow those of the exact values.
        width = int(row.counts_N.max(initial=own.exact_bytes))
        bytes_NB = _square(row.where, row.counts_N, row.values_E, width, "compressed_logprobs")
        values_NK = own.unpack_values(bytes_NB)
        return replace(
            row,
            counts_N=np.full(len(values_NK), own.exact_k),
            ids=(np.full(len(ids_NK), own.exact_k), ids_NK.ravel()),
            values_E=np.where(values_NK <= ABSENT, -np.inf, values_NK).ravel(),
            rounding=own.rounding,
        )


export_distillkit = DistillKit.write


def _export(store: Store, view: EntriesView, value_format: ValueFormat) -> TrainerExport:
    vocab_size, top_k = max(2, store.targets.vocab_size), view.top_k
    compression = Compression(d=vocab_size, k=top_k, exact_k=top_k, exact_dtype=value_format)
    row_tokens = _longest_segment(store)
    return TrainerExport(
        store=store,
        view=view,
        layout=DistillKit.name,
        trainer="DistillKit's offline trainer",
        columns=partial(_columns, compression=compression, row_tokens=row_tokens),
        config=_config(compression, row_tokens),
        # Short documents are padded to the longest, which a few rows at a time bear.
        rows_at_once=max(1, _TABLE_TOKENS // row_tokens),
        lost=(
            "Labels for cross-entropy: `labels[t]` is what the trainer masks the target at token t "
            "by, which is about token t + 1. Leave cross_entropy out where only some are trained.",
        ),
        files={CONFIG_NAME: yaml.safe_dump(compression.to_dict()).encode()},
    )


def _longest_segment(store: Store) -> int:
    longest = 0
    for shard in range(len(store.manifest.shards)):
        with store.open_shard(shard) as reader:
            column = reader.read_columns(["segment_lengths"]).column(0)
        longest = max(longest, *(int(np.max(chunk.values)) for chunk in column.chunks))
    return longest


def _columns(
    sequences: Sequence[TokenSequence], compression: Compression, row_tokens: int
) -> dict[str, pa.Array]:
    """Return the columns that the trainer reads, a row for each sequence, all of the same length.

    The trainer drops rows of other lengths, and takes every column as a tensor. It reads
    `labels[t]` for the target at token t, so that is what they are for.

    Raises:
        InputError: a log-probability is as low as what stands for none.
    """
    num_rows = len(sequences)
    tokens = {
        "input_ids": np.zeros((num_rows, row_tokens), np.int64),
        "attention_mask": np.zeros((num_rows, row_tokens), np.int64),
        "labels": np.full((num_rows, row_tokens), IGNORE_INDEX, np.int64),
    }
    ids_RLK = np.zeros((num_rows, row_tokens, compression.k), np.int32)
    values_RLK = np.full(ids_RLK.shape, ABSENT)
    for row, one in enumerate(sequences):
        num = len(one.input_ids_L)
        tokens["input_ids"][row, :num] = one.input_ids_L
        tokens["attention_mask"][row, :num] = 1
        tokens["labels"][row, : num - 1][one.mask_T] = one.input_ids_L[:-1][one.mask_T]
        ids_RLK[row, : num - 1] = one.ids_TK
        is_entry_TK = one.logprobs_TK > -np.inf
        _check_above(one.logprobs_TK[is_entry_TK])
        values_RLK[row, : num - 1][is_entry_TK] = one.logprobs_TK[is_entry_TK]
    packed = {
        "compressed_logprobs": compression.pack_values(values_RLK.reshape(-1, compression.k)),
        "bytepacked_indices": pack_bits(ids_RLK.reshape(-1, compression.k), compression.id_bits),
    }
    return {name: pa.array(list(array)) for name, array in tokens.items()} | {
        name: _bytes(array, row_tokens) for name, array in packed.items()
    }


def _check_above(logprobs_E: Array) -> None:
    if len(logprobs_E) and logprobs_E.min() <= ABSENT:
        raise InputError(
            "log-probabilities",
            expected=f"numbers above {ABSENT:g}, which stands for none",
            found=f"{logprobs_E.min():g}",
            next_step="Export fewer entries with --top-k.",
        )


def _bytes(bytes_NB: UInt8, row_tokens: int) -> pa.Array:
    """Return rows of bytes as lists of lists, so many to a row."""
    width = bytes_NB.shape[1]
    inner = pa.array(np.arange(len(bytes_NB) + 1) * width, pa.int32())
    outer = pa.array(np.arange(0, len(bytes_NB) + 1, row_tokens), pa.int32())
    lists = pa.ListArray.from_arrays(inner, pa.array(bytes_NB.ravel()))
    return pa.ListArray.from_arrays(outer, lists)


def _config(compression: Compression, row_tokens: int) -> dict[str, Any]:
    """Return what of DistillKit's configuration these columns need."""
    return {
        "dataset": {
            "train_dataset": {"repo_id": "THIS_DIRECTORY", "split": "train"},
            "prepacked": True,
        },
        "sequence_length": row_tokens,
        "teacher": {"kind": "dataset", "logprob_compressor": compression.to_dict()},
        "loss_functions": [
            {
                "function": "kl",
                "weight": 1.0,
                "temperature": 1.0,
                "missing_probability_handling": "zero",
            }
        ],
    }


def _square(where: str, counts_N: Int64, bytes_E: Array, width: int, name: str) -> UInt8:
    if not (counts_N == width).all() or ((bytes_E < 0) | (bytes_E > 255)).any():
        raise CorpusError(
            f"{where}, column {name}",
            expected=f"{width} bytes at every position, by the configuration",
            found=f"{sorted(set(counts_N.tolist()))[:5]} numbers, from {bytes_E.min(initial=0)} to "
            f"{bytes_E.max(initial=0)}",
            next_step="Pass the configuration that the files were captured with.",
        )
    return bytes_E.astype(np.uint8).reshape(len(counts_N), width)
