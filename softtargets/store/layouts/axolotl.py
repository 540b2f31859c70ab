"""The KD columns of axolotl: lists of log-probabilities and ids for each token.

`target_logprobs[j]` and `target_token_ids[j]` are the distribution of token j + 1, and
`target_mask[j]` is 0 where `labels[j + 1]` is -100, where an entry is none, and in the last row,
which has no next token. Source: axolotl-ai-cloud/axolotl, src/axolotl/integrations/kd/README.md
("Pre-prepared datasets", "Target alignment"); see docs/formats.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from softtargets.store.layouts.lists import (
    Array,
    Int64,
    read_lists,
    read_nested,
    read_optional,
)
from softtargets.store.layouts.rows import (
    IGNORE_INDEX,
    ListedRow,
    ListsOfRow,
    shifted_labels,
)
from softtargets.store.layouts.sequences import HeadView, TokenSequence
from softtargets.targets import Bool

PADDING = -1e9
"""What axolotl writes for no log-probability; older releases wrote -inf."""
_PADDING_AT_MOST = -1e8

Alignment = Literal["current", "legacy"]
"""Whether row j is about token j + 1, or about token j, as axolotl prepared it until 0.18.0."""


def axolotl_columns(sequences: list[TokenSequence], view: HeadView) -> dict[str, pa.Array]:
    """Return the columns of a prepared dataset, a row for each sequence."""
    columns: dict[str, list[Any]] = {name: [] for name in _TYPES}
    for one in sequences:
        labels_L = np.full(len(one.input_ids_L), IGNORE_INDEX, np.int32)
        labels_L[1:][one.mask_T] = one.input_ids_L[1:][one.mask_T]
        kept_TK = one.logprobs_TK > -np.inf
        columns["input_ids"].append(one.input_ids_L)
        columns["attention_mask"].append(np.ones(len(one.input_ids_L), np.int8))
        columns["labels"].append(labels_L)
        # One row more than there are targets, for the last token.
        columns["target_logprobs"].append(
            _with_last(np.where(kept_TK, one.logprobs_TK, PADDING), PADDING)
        )
        columns["target_token_ids"].append(_with_last(one.ids_TK, 0))
        columns["target_mask"].append(_with_last(kept_TK & one.mask_T[:, None], 0))
    return {name: _array(arrays, name, view.top_k) for name, arrays in columns.items()}


def axolotl_config(view: HeadView) -> dict[str, Any]:
    """Return what of axolotl's configuration these columns need."""
    return {
        "plugins": ["axolotl.integrations.kd.KDPlugin"],
        "kd_trainer": True,
        "kd_temperature": view.temperature,
        "kd_normalize_topk": view.values == "renormalised",
        "kd_prepared_targets_alignment": "current",
        "skip_prepare_dataset": True,
        "datasets": [{"path": "THIS_DIRECTORY", "split": "train"}],
    }


_TYPES: dict[str, pa.DataType] = {
    "input_ids": pa.int32(),
    "attention_mask": pa.int8(),
    "labels": pa.int32(),
    "target_logprobs": pa.float32(),
    "target_token_ids": pa.int32(),
    "target_mask": pa.int8(),
}


def _with_last(array_TK: Any, fill: float) -> Any:
    return np.concatenate([array_TK, np.full((1, array_TK.shape[1]), fill)])


def _array(arrays: list[Any], name: str, top_k: int) -> pa.Array:
    bounds = pa.array(np.cumsum([0, *(len(one) for one in arrays)]), pa.int32())
    flat = np.concatenate(arrays)
    values = pa.array(flat.ravel().astype(_TYPES[name].to_pandas_dtype()), _TYPES[name])
    if flat.ndim > 1:
        inner = pa.array(np.arange(len(flat) + 1) * top_k, pa.int32())
        values = pa.ListArray.from_arrays(inner, values)
    return pa.ListArray.from_arrays(bounds, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axolotl:
    """Reads prepared datasets, and rows of log-probabilities that have their `input_ids`."""

    alignment: Alignment = "current"
    name: ClassVar[str] = "axolotl"
    columns: ClassVar[tuple[str, ...]] = (*_TYPES, "logprobs")

    def rows(self, batch: pa.RecordBatch, where: str, first: int) -> Iterator[ListedRow]:
        """Yield the rows of a part of a file; `first` is the number of the first.

        Prepared rows have as many positions as tokens. Rows as vLLM gives them (`logprobs`, with
        `target_token_ids`) are about the last tokens, one for each.

        Raises:
            CorpusError: a column is missing, or the columns don't fit each other.
        """
        is_prepared = "target_logprobs" in batch.schema.names
        tokens = read_lists(batch, "input_ids", where)
        ids = read_nested(batch, "target_token_ids", where)
        name = "target_logprobs" if is_prepared else "logprobs"
        values = read_nested(batch, name, where, "numbers")
        masks = read_nested(batch, "target_mask", where) if is_prepared else None
        labels = read_optional(batch, "labels", where)
        attention = read_optional(batch, "attention_mask", where)
        for number in range(batch.num_rows):
            place = f"{where}, row {first + number}"
            counts_N, values_E = values.row(number)
            row = ListsOfRow(
                where=place,
                input_ids_L=tokens.row(number),
                attention_L=None if attention is None else attention.row(number),
                counts_N=counts_N,
                ids=ids.row(number),
                values_E=np.where(values_E <= _PADDING_AT_MOST, -np.inf, values_E),
                rounding=values.rounding,
            )
            shift = self._shift(row, is_prepared=is_prepared)
            is_trained_L = None if labels is None else shifted_labels(row, labels.row(number))
            if masks is not None:
                is_trained_L = _by_mask(row, shift, masks.row(number), is_trained_L)
            yield row.placed(shift, is_trained_L)

    def _shift(self, row: ListsOfRow, *, is_prepared: bool) -> int:
        """Return which target the first list is about; negative where that has none."""
        num_tokens, num_lists = len(row.input_ids_L), len(row.counts_N)
        if is_prepared:
            row.check(num_lists == num_tokens, f"{num_tokens} lists, one a token", f"{num_lists}")
            return -1 if self.alignment == "legacy" else 0
        row.check(num_lists <= num_tokens, f"at most {num_tokens} lists", f"{num_lists}")
        return num_tokens - num_lists - 1


def _by_mask(
    row: ListsOfRow, shift: int, mask: tuple[Int64, Array], by_labels_L: Bool | None
) -> Bool:
    """Return which targets are trained on by `target_mask`, which the labels have to agree with.

    Raises:
        CorpusError: they don't, where there are entries: then another alignment is likely.
    """
    mask_counts_N, mask_E = mask
    row.check(
        np.array_equal(mask_counts_N, row.counts_N), "a mask for every entry", "other numbers"
    )
    is_entry_E = row.values_E > -np.inf
    is_trained_L = row.targets_with(is_entry_E & (mask_E > 0), shift)
    if by_labels_L is not None:
        has_entries_L = row.targets_with(is_entry_E, shift)
        differs_L = (is_trained_L != by_labels_L) & has_entries_L
        row.check(
            not differs_L.any(),
            "a target_mask that is 0 exactly where the next token's label is -100",
            f"another at token {differs_L.argmax()}; --alignment says which token a row is about",
        )
    return is_trained_L
