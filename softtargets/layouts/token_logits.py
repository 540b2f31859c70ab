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

from softtargets.layouts.layout import Way
from softtargets.layouts.listed_import import LIST_OPTIONS, ListedLayout
from softtargets.layouts.listed_rows import ListedRow, read_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogits(ListedLayout):
    """Nested lists of ids and values."""

    name: ClassVar[str] = "token-logits"
    columns: ClassVar[tuple[str, ...]] = (
        "input_ids",
        "token_ids",
        "top_values",
        "labels",
        "attention_mask",
    )
    reads: ClassVar[Way] = Way("token_ids with top_values.", LIST_OPTIONS)

    def rows(self, batch: pa.RecordBatch, where: str, first: int) -> Iterator[ListedRow]:
        """Yield the rows of a part of a file."""
        for row in read_rows(batch, where, first, ids="token_ids", values="top_values"):
            row.check_lists()
            yield row.placed(0, row.labelled_next())
