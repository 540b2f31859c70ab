"""The KD columns of axolotl: lists of log-probabilities and ids for each token.

`target_logprobs[j]` and `target_token_ids[j]` are the distribution of token j + 1, and
`target_mask[j]` is 0 where `labels[j + 1]` is -100, where an entry is none, and in the last row,
which has no next token. Source: axolotl-ai-cloud/axolotl, src/axolotl/integrations/kd/README.md
("Pre-prepared datasets", "Target alignment"); see docs/formats.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from softtargets.layouts.layout import Option, Way
from softtargets.layouts.listed_import import LIST_OPTIONS, ListedLayout
from softtargets.layouts.listed_rows import IGNORE_INDEX, ListedRow, ListsOfRow, read_rows
from softtargets.layouts.lists import read_nested
from softtargets.layouts.sequences import EntriesView, TokenSequence, Values, view_entries
from softtargets.layouts.trainer_export import ENTRIES_OPTIONS, TrainerExport
from softtargets.store.store import Store
from softtargets.targets import Array, Bool, Int64

PADDING = -1e9
"""What axolotl writes for no log-probability; older releases wrote -inf."""
_PADDING_AT_MOST = -1e8

Alignment = Literal["current", "legacy"]
"""Whether row j is about token j + 1, or about token j, as axolotl prepared it until 0.18.0."""

_TYPES: dict[str, pa.DataType] = {
    "input_ids": pa.int32(),
    "attention_mask": pa.int8(),
    "labels": pa.int32(),
    "target_logprobs": pa.float32(),
    "target_token_ids": pa.int32(),
    "target_mask": pa.int8(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Axolotl(ListedLayout):
    """Prepared datasets; read are rows of log-probabilities that have their `input_ids`, too."""

    alignment: Alignment = "current"
    name: ClassVar[str] = "axolotl"
    columns: ClassVar[tuple[str, ...]] = (*_TYPES, "logprobs")
    reads: ClassVar[Way] = Way(
        "target_logprobs, or logprobs, with target_token_ids.",
        (
            *LIST_OPTIONS,
            Option(
                "alignment",
                Alignment,
                "current if row j is about token j + 1, legacy if it is about token j, as prepared "
                "until 0.18.0.  [default: current]",
            ),
        ),
    )
    writes: ClassVar[Way] = Way(
        "a dataset prepared for its KD trainer.",
        (
            Option(
                "temperature",
                float,
                "Temperature of the softmax, which must be one of the store's.  [default: 1]",
            ),
            Option(
                "values",
                Values,
                "Whether probabilities are over the kept entries, as it prepares them itself, or "
                "over the whole vocabulary.  [default: renormalised]",
                flag="--log-probabilities",
            ),
            *ENTRIES_OPTIONS,
        ),
    )

    @classmethod
    def write(
        cls,
        path: str | Path,
        output: str | Path,
        *,
        temperature: float = 1.0,
        values: Values = "renormalised",
        top_k: int | None = None,
        without_draws: bool = False,
    ) -> Path:
        """Write a store's entries as a dataset prepared for the trainer, and return the directory.

        The values are log-probabilities over the kept entries alone, as axolotl prepares them, or
        of the whole vocabulary's softmax, with `kd_normalize_topk` false. Its `kd_temperature` has
        to be their temperature, which axolotl cannot change. For the rest see `Layout.write`.
        """
        store = Store.open(path)
        view = view_entries(store, temperature, values, top_k, without_draws=without_draws)
        return TrainerExport(
            store=store,
            view=view,
            layout=cls.name,
            trainer="axolotl's KD trainer",
            columns=_columns,
            config=_config(view),
        ).write(output)

    def rows(self, batch: pa.RecordBatch, where: str, first: int) -> Iterator[ListedRow]:
        """Yield the rows of a part of a file.

        Prepared rows have as many positions as tokens. Rows as vLLM gives them (`logprobs`, with
        `target_token_ids`) are about the last tokens, one for each.
        """
        is_prepared = "target_logprobs" in batch.schema.names
        name = "target_logprobs" if is_prepared else "logprobs"
        masks = read_nested(batch, "target_mask", where) if is_prepared else None
        rows = read_rows(batch, where, first, ids="target_token_ids", values=name)
        for number, padded in enumerate(rows):
            is_padding_E = padded.values_E <= _PADDING_AT_MOST
            row = replace(padded, values_E=np.where(is_padding_E, -np.inf, padded.values_E))
            shift = self._shift(row, is_prepared=is_prepared)
            is_trained_L = row.labelled_next()
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


export_axolotl = Axolotl.write


def _columns(sequences: list[TokenSequence]) -> dict[str, pa.Array]:
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
    return {name: _array(arrays, name) for name, arrays in columns.items()}


def _config(view: EntriesView) -> dict[str, Any]:
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


def _with_last(array_TK: Any, fill: float) -> Any:
    return np.concatenate([array_TK, np.full((1, array_TK.shape[1]), fill)])


def _array(arrays: list[Any], name: str) -> pa.Array:
    bounds = pa.array(np.cumsum([0, *(len(one) for one in arrays)]), pa.int32())
    flat = np.concatenate(arrays)
    values = pa.array(flat.ravel().astype(_TYPES[name].to_pandas_dtype()), _TYPES[name])
    if flat.ndim > 1:
        inner = pa.array(np.arange(len(flat) + 1) * flat.shape[1], pa.int32())
        values = pa.ListArray.from_arrays(inner, values)
    return pa.ListArray.from_arrays(bounds, values)


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
