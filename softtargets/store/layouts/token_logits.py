"""Nested lists `token_ids` and `top_values`, as in Arcee's public logits of Llama 3.1 405B.

A row has `input_ids`, `attention_mask`, and for each token the ids of the highest logits and the
logits themselves (`top_values`); the last token's are about a token that is not there. DistillKit
passes such rows through as log-probabilities. `normalized_logits` are not read: they are the same
numbers after a softmax of which nobody says what it is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from softtargets.store.layouts.lists import read_lists, read_nested, read_optional
from softtargets.store.layouts.rows import ListedRow, ListsOfRow, shifted_labels


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogits:
    """Reads nested lists of ids and values."""

    name: ClassVar[str] = "token-logits"
    columns: ClassVar[tuple[str, ...]] = (
        "input_ids",
        "token_ids",
        "top_values",
        "labels",
        "attention_mask",
    )

    def rows(self, batch: pa.RecordBatch, where: str, first: int) -> Iterator[ListedRow]:
        """Yield the rows of a part of a file; `first` is the number of the first.

        Raises:
            CorpusError: a column is missing, or the columns don't fit each other.
        """
        tokens = read_lists(batch, "input_ids", where)
        ids = read_nested(batch, "token_ids", where)
        values = read_nested(batch, "top_values", where, "numbers")
        labels = read_optional(batch, "labels", where)
        attention = read_optional(batch, "attention_mask", where)
        for number in range(batch.num_rows):
            counts_N, values_E = values.row(number)
            row = ListsOfRow(
                where=f"{where}, row {first + number}",
                input_ids_L=tokens.row(number),
                attention_L=None if attention is None else attention.row(number),
                counts_N=counts_N,
                ids=ids.row(number),
                values_E=values_E,
                rounding=values.rounding,
            )
            row.check_lists()
            yield row.placed(0, None if labels is None else shifted_labels(row, labels.row(number)))
