"""Documents to tokens to windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from softtargets.capture.corpus import Document
from softtargets.capture.tokenizer import Tokenizer
from softtargets.errors import InputError
from softtargets.targets import Int32
from softtargets.window import TokenWindow, hash_window

COUNTS = (
    "documents",
    "empty_documents",
    "windows",
    "tokens",
    "single_tokens",
    "repeated_windows",
)
"""What `Windowing.windows` counts; in the manifest as `corpus`."""

_TOKENIZE_AT_ONCE = 256
"""Documents given to the tokenizer together, so that it can use every core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Windowing:
    """How a document becomes windows: cut into pieces of `sequence_length` tokens, in order."""

    sequence_length: int = 1024

    def __post_init__(self) -> None:
        if self.sequence_length < 2:
            raise InputError(
                "--sequence-length",
                expected="at least 2, since a target needs a token before it and one after",
                found=str(self.sequence_length),
                next_step="Pass a larger one.",
            )

    def describe(self) -> dict[str, Any]:
        """Return the identity's form."""
        return {"kind": "split", **asdict(self)}

    def windows(
        self, documents: Iterable[Document], tokenizer: Tokenizer, counts: Counter[str]
    ) -> Iterator[TokenWindow]:
        """Yield every window once, in the order of the corpus.

        A document without tokens, a piece of a single token (nothing can be predicted in it) and
        a window that occurred before are left out; `counts` is told of all, under `COUNTS`.
        """
        seen: set[str] = set()
        for document, ids_L in _tokenized(documents, tokenizer):
            counts["documents"] += 1
            counts["empty_documents"] += len(ids_L) == 0
            for offset in range(0, len(ids_L), self.sequence_length):
                window = _window(document, ids_L[offset : offset + self.sequence_length], offset)
                if len(window) == 1:
                    counts["single_tokens"] += 1
                elif window.window_id in seen:
                    counts["repeated_windows"] += 1
                else:
                    seen.add(window.window_id)
                    counts["windows"] += 1
                    counts["tokens"] += len(window)
                    yield window


def _tokenized(
    documents: Iterable[Document], tokenizer: Tokenizer
) -> Iterator[tuple[Document, Int32]]:
    stream = iter(documents)
    while batch := list(islice(stream, _TOKENIZE_AT_ONCE)):
        ids = tokenizer.encode_batch([document.text for document in batch])
        for document, ids_L in zip(batch, ids, strict=True):
            yield document, np.asarray(ids_L, dtype=np.int32)


def _window(document: Document, input_ids_L: Int32, offset: int) -> TokenWindow:
    segment_lengths_S = np.array([len(input_ids_L)], np.int32)
    mask_T = np.ones(len(input_ids_L) - 1, np.bool_)
    return TokenWindow(
        window_id=hash_window(input_ids_L, segment_lengths_S, mask_T),
        input_ids_L=input_ids_L,
        segment_lengths_S=segment_lengths_S,
        mask_T=mask_T,
        document_ids=(document.document_id,),
        offset=offset,
        source=document.source,
    )
