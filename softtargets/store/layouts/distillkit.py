"""The compressed columns of DistillKit: ids in bits, log-probabilities in bytes.

`compressed_logprobs` and `bytepacked_indices` have a list of bytes for each token; list j is the
distribution of token j + 1. A configuration, which its trainer needs too, says what the bytes are.
Written is one that keeps every log-probability as a number (`exact_k` = k); of others, in which a
polynomial stands for the lower ranks, only the exact ranks are read: the rest is not the teacher's.
Source: arcee-ai/DistillKit, distillkit/compression and distillkit/trainer.py; see docs/formats.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from softtargets.errors import CorpusError, InputError
from softtargets.store.layouts.compression import Compression, pack_bits, unpack_bits
from softtargets.store.layouts.lists import Array, Int64, read_lists, read_nested, read_optional
from softtargets.store.layouts.rows import IGNORE_INDEX, ListedRow, ListsOfRow
from softtargets.store.layouts.sequences import TokenSequence
from softtargets.targets import Bool, Float64, UInt8

ABSENT = -8192.0
"""The log-probability of what is no entry: in every number format, and 0 as a probability. What is
-inf elsewhere would make NaN of 0 times it in the trainer's loss."""


def distillkit_columns(
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


def distillkit_config(compression: Compression, row_tokens: int) -> dict[str, Any]:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillKit:
    """Reads compressed columns, captured or packed, by their configuration."""

    compression: Compression
    name: ClassVar[str] = "distillkit"
    columns: ClassVar[tuple[str, ...]] = (
        "input_ids",
        "compressed_logprobs",
        "bytepacked_indices",
        "labels",
        "attention_mask",
    )

    def rows(self, batch: pa.RecordBatch, where: str, first: int) -> Iterator[ListedRow]:
        """Yield the rows of a part of a file; `first` is the number of the first.

        Raises:
            CorpusError: a column is missing, or the bytes are not what the configuration says.
        """
        tokens = read_lists(batch, "input_ids", where)
        values = read_nested(batch, "compressed_logprobs", where)
        ids = read_nested(batch, "bytepacked_indices", where)
        labels = read_optional(batch, "labels", where)
        attention = read_optional(batch, "attention_mask", where)
        for number in range(batch.num_rows):
            place = f"{where}, row {first + number}"
            input_ids_L = tokens.row(number)
            ids_NK = self._ids(place, *ids.row(number))
            values_NK = self._values(place, *values.row(number))
            row = ListsOfRow(
                where=place,
                input_ids_L=input_ids_L,
                attention_L=None if attention is None else attention.row(number),
                counts_N=np.full(len(values_NK), self.compression.exact_k),
                ids=(np.full(len(ids_NK), self.compression.exact_k), ids_NK.ravel()),
                values_E=np.where(values_NK <= ABSENT, -np.inf, values_NK).ravel(),
                rounding=self.compression.rounding,
            )
            row.check_lists()
            yield row.placed(0, None if labels is None else _trained(row, labels.row(number)))

    def _ids(self, where: str, counts_N: Int64, bytes_E: Array) -> Int64:
        """Return the ids of the exact entries."""
        own = self.compression
        bytes_NB = _square(where, counts_N, bytes_E, own.id_bytes, "bytepacked_indices")
        return unpack_bits(bytes_NB, own.id_bits, own.k)[:, : own.exact_k]

    def _values(self, where: str, counts_N: Int64, bytes_E: Array) -> Float64:
        """Return the exact log-probabilities."""
        own = self.compression
        width = int(counts_N.max(initial=own.exact_bytes))
        bytes_NB = _square(where, counts_N, bytes_E, width, "compressed_logprobs")
        return own.unpack_values(bytes_NB)


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


def _trained(row: ListsOfRow, labels_L: Array) -> Bool:
    """Return which targets the trainer counts: those at tokens that have a label themselves."""
    num_tokens = len(row.input_ids_L)
    row.check(len(labels_L) == num_tokens, f"{num_tokens} labels", f"{len(labels_L)}")
    return np.asarray(labels_L >= 0)
