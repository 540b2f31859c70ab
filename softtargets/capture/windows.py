"""Documents to tokens to windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

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
    "truncated_tokens",
)
"""What `Windowing.windows` counts; in the manifest as `corpus`."""

_TOKENIZE_AT_ONCE = 256
"""Documents given to the tokenizer together, so that it can use every core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Windowing:
    """How a document becomes windows of at most `sequence_length` tokens."""

    sequence_length: int = 1024
    kind: Literal["split", "truncate"] = "split"
    """Cut into pieces, in order; or keep the first piece and drop the rest."""
    overlap: int = 0
    """Tokens that a piece has in common with the one before it, as context. The targets that the
    piece before has already are masked, so that every token is trained on once; without overlap
    the first token of a piece is nobody's target."""

    def __post_init__(self) -> None:
        if self.sequence_length < 2:
            raise InputError(
                "--sequence-length",
                expected="at least 2, since a target needs a token before it and one after",
                found=str(self.sequence_length),
                next_step="Pass a larger one.",
            )
        most = self.sequence_length - 1 if self.kind == "split" else 0
        if not 0 <= self.overlap <= most:
            raise InputError(
                "--overlap",
                expected=f"a number from 0 to {most}, for --window {self.kind} with "
                f"--sequence-length {self.sequence_length}",
                found=str(self.overlap),
                next_step="Only pieces of documents overlap, and each has to go on by a token.",
            )

    def describe(self) -> dict[str, Any]:
        """Return the identity's form."""
        described = {"kind": self.kind, "sequence_length": self.sequence_length}
        return described | ({"overlap": self.overlap} if self.overlap else {})

    def windows(
        self, documents: Iterable[Document], tokenizer: Tokenizer, counts: Counter[str]
    ) -> Iterator[TokenWindow]:
        """Yield every window once, in the order of the corpus.

        A document without tokens, a piece of a single token (nothing can be predicted in it), a
        window that occurred before and what is truncated are left out; `counts` is told of all,
        under `COUNTS`.
        """
        seen: set[str] = set()
        for document, ids_L in _tokenized(documents, tokenizer):
            counts["documents"] += 1
            counts["empty_documents"] += len(ids_L) == 0
            for offset in self._offsets(len(ids_L)):
                window = self._window(document, ids_L, offset)
                if len(window) == 1:
                    counts["single_tokens"] += 1
                elif window.window_id in seen:
                    counts["repeated_windows"] += 1
                else:
                    seen.add(window.window_id)
                    counts["windows"] += 1
                    counts["tokens"] += len(window)
                    yield window
            if self.kind == "truncate":
                counts["truncated_tokens"] += max(0, len(ids_L) - self.sequence_length)

    def _offsets(self, num_tokens: int) -> Iterable[int]:
        """Return where the pieces of a document begin."""
        if self.kind == "truncate":
            return range(min(1, num_tokens))
        # A piece that had nothing but what the one before it has is none.
        last = max(num_tokens - self.overlap, min(1, num_tokens))
        return range(0, last, self.sequence_length - self.overlap)

    def _window(self, document: Document, ids_L: Int32, offset: int) -> TokenWindow:
        input_ids_L = ids_L[offset : offset + self.sequence_length]
        segment_lengths_S = np.array([len(input_ids_L)], np.int32)
        mask_T = np.ones(len(input_ids_L) - 1, np.bool_)
        if offset > 0:
            mask_T[: max(0, self.overlap - 1)] = False
        return TokenWindow(
            window_id=hash_window(input_ids_L, segment_lengths_S, mask_T),
            input_ids_L=input_ids_L,
            segment_lengths_S=segment_lengths_S,
            mask_T=mask_T,
            document_ids=(document.document_id,),
            offset=offset,
            source=document.source,
        )


def _tokenized(
    documents: Iterable[Document], tokenizer: Tokenizer
) -> Iterator[tuple[Document, Int32]]:
    stream = iter(documents)
    while batch := list(islice(stream, _TOKENIZE_AT_ONCE)):
        ids = tokenizer.encode_batch([document.text for document in batch])
        for document, ids_L in zip(batch, ids, strict=True):
            yield document, np.asarray(ids_L, dtype=np.int32)
