"""Documents to tokens to windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from softtargets.capture.documents import Conversation, Document, OnInvalid, raise_invalid
from softtargets.capture.packing import pack_pieces
from softtargets.capture.repeats import counted, without_repeats
from softtargets.capture.teacher_tokenizer import ChatTokenizer, Tokenizer
from softtargets.errors import CorpusError, InputError
from softtargets.targets import DEFAULT_CONVENTION, Bool, Convention, Int32
from softtargets.window import TokenWindow, hash_window

COUNTS = (
    "documents",
    "invalid_documents",
    "empty_documents",
    "windows",
    "tokens",
    "single_tokens",
    "repeated_windows",
    "untargeted_windows",
    "truncated_tokens",
)
"""What is counted of a corpus; in the manifest as `corpus`."""

PARTLY_WRITTEN = "partly_written_documents"
"""Counted beside them, when there are any: conversations of which the chat template does not write
all."""

TRUNCATED_SOURCE, TRUNCATED_TARGET = "truncated_source_tokens", "truncated_target_tokens"
"""Counted beside them, when there are any: which texts of pairs `truncated_tokens` are of."""

OnUnused = Callable[[Document, Sequence[str]], None]
"""Called with each conversation and the parts of it that the chat template does not write."""

_TOKENIZE_AT_ONCE = 256
"""Documents given to the tokenizer together, so that it can use every core."""
_TOKENIZE_CHARACTERS = 1_000_000
"""No more are given to it after so many characters: it takes some 200 bytes for each."""


_Tokenized = tuple[Document, Int32, Bool | None]
"""A document, its ids [L], and which of them are targets; None means all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Windowing:
    """How a document becomes windows of at most `sequence_length` tokens."""

    sequence_length: int = 1024
    kind: Literal["split", "truncate", "pack"] = "split"
    """Cut into pieces, in order; or keep the first piece and drop the rest; or cut, and put pieces
    of documents that follow each other into one window while they fit. Packed documents do not see
    each other: each is read from position 0 as if it were alone."""
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
        most = 0 if self.kind == "truncate" else self.sequence_length - 1
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
        self,
        documents: Iterable[Document],
        tokenizer: Tokenizer,
        counts: Counter[str],
        *,
        convention: Convention = DEFAULT_CONVENTION,
        lists_positions: bool = False,
        on_invalid: OnInvalid = raise_invalid,
        on_unused: OnUnused = lambda *_: None,
    ) -> Iterator[TokenWindow]:
        """Yield every window once, in the order of the corpus.

        A document without tokens, a piece of a single token (nothing can be predicted in it), one
        without a target, one that occurred before and what is truncated are left out; `counts` is
        told of all, under `COUNTS`.

        Args:
            documents: what is cut.
            tokenizer: the teacher's.
            counts: is added to.
            convention: how targets stand to tokens, of which there is at most one for each.
            lists_positions: list the positions that are targets, instead of giving every position
                one and masking the others.
            on_invalid: called for a document that the tokenizer refuses.
            on_unused: called for a conversation, if the tokenizer can say what it does not write.
        """
        pieces = self.pieces(
            documents,
            tokenizer,
            counts,
            convention=convention,
            lists_positions=lists_positions,
            on_invalid=on_invalid,
            on_unused=on_unused,
        )
        return counted(self.joined(without_repeats(pieces, counts), convention), counts)

    def joined(
        self, pieces: Iterable[TokenWindow], convention: Convention = DEFAULT_CONVENTION
    ) -> Iterator[TokenWindow]:
        """Yield the windows of pieces, of which each occurs once: as they are, or packed."""
        packs = self.kind == "pack"
        return pack_pieces(pieces, self.sequence_length, convention) if packs else iter(pieces)

    def pieces(
        self,
        documents: Iterable[Document],
        tokenizer: Tokenizer,
        counts: Counter[str],
        *,
        convention: Convention = DEFAULT_CONVENTION,
        lists_positions: bool = False,
        on_invalid: OnInvalid = raise_invalid,
        on_unused: OnUnused = lambda *_: None,
    ) -> Iterator[TokenWindow]:
        """Yield the pieces that have something to learn from, also those that occurred before.

        Each is a window of a single document. For the arguments see `windows`.
        """
        for document, ids_L, is_target_L in _tokenized(documents, tokenizer, on_invalid, on_unused):
            counts["documents"] += 1
            counts["empty_documents"] += len(ids_L) == 0
            for offset in self._offsets(len(ids_L)):
                input_ids_L = ids_L[offset : offset + self.sequence_length]
                own_target_L = self._targets(len(input_ids_L), is_target_L, offset, convention)
                if len(input_ids_L) == convention.shift:
                    counts["single_tokens"] += 1
                elif not own_target_L.any():
                    counts["untargeted_windows"] += 1
                else:
                    is_target_T = own_target_L[convention.shift :]
                    yield _piece(document, input_ids_L, is_target_T, offset, lists_positions)
            if self.kind == "truncate":
                counts["truncated_tokens"] += max(0, len(ids_L) - self.sequence_length)

    def _offsets(self, num_tokens: int) -> Iterable[int]:
        """Return where the pieces of a document begin."""
        if self.kind == "truncate":
            return range(min(1, num_tokens))
        # A piece that had nothing but what the one before it has is none.
        last = max(num_tokens - self.overlap, min(1, num_tokens))
        return range(0, last, self.sequence_length - self.overlap)

    def _targets(
        self, num_tokens: int, is_target_L: Bool | None, offset: int, convention: Convention
    ) -> Bool:
        """Return which tokens of a piece a student is trained to predict, [L]."""
        if is_target_L is None:
            own_target_L = np.ones(num_tokens, np.bool_)
        else:
            own_target_L = is_target_L[offset : offset + num_tokens].copy()
        # No position of the piece is about its first tokens.
        own_target_L[: convention.shift] = False
        if offset > 0:
            own_target_L[: self.overlap] = False
        return own_target_L


def _piece(
    document: Document, input_ids_L: Int32, is_target_T: Bool, offset: int, lists_positions: bool
) -> TokenWindow:
    lengths_1 = np.array([len(input_ids_L)], np.int32)
    positions_T = np.flatnonzero(is_target_T).astype(np.int32) if lists_positions else None
    mask_T = is_target_T if positions_T is None else np.ones(len(positions_T), np.bool_)
    return TokenWindow(
        window_id=hash_window(input_ids_L, lengths_1, mask_T, positions_T=positions_T),
        input_ids_L=input_ids_L,
        segment_lengths_S=lengths_1,
        mask_T=mask_T,
        document_ids=(document.document_id,),
        offset=offset,
        source=document.source,
        positions_T=positions_T,
        metadata={name: (text,) for name, text in document.metadata.items()},
    )


def stored_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Return what of the counts a manifest keeps."""
    stored = {name: counts.get(name, 0) for name in COUNTS}
    # Only where there are any, so that other stores stay the same bytes.
    others = (PARTLY_WRITTEN, TRUNCATED_SOURCE, TRUNCATED_TARGET)
    return stored | {name: counts[name] for name in others if counts.get(name)}


def _tokenized(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    on_invalid: OnInvalid,
    on_unused: OnUnused,
) -> Iterator[_Tokenized]:
    """Yield documents with their ids, and which of them are targets."""
    for batch in tokenized_together(documents):
        texts = [document.content for document in batch if isinstance(document.content, str)]
        encoded = iter(tokenizer.encode_batch(texts) if texts else ())
        for document in batch:
            is_target: list[bool] | None = None
            try:
                if isinstance(document.content, str):
                    ids: Any = next(encoded)
                elif isinstance(document.content, Conversation):
                    where = f"{document.source}, document {document.document_id}"
                    ids, is_target = tokenizer.encode_conversation(document.content, where)
                    if isinstance(tokenizer, ChatTokenizer):
                        on_unused(document, tokenizer.unused_parts(document.content))
                else:
                    ids = _known(document, document.content, tokenizer)
            except CorpusError as error:
                on_invalid(error)
                continue
            is_target_L = None if is_target is None else np.array(is_target, np.bool_)
            yield document, np.asarray(ids, dtype=np.int32), is_target_L


def tokenized_together(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Yield documents that are tokenized together."""
    batch: list[Document] = []
    num_characters = 0
    for document in documents:
        batch.append(document)
        num_characters += len(document.content) if isinstance(document.content, str) else 0
        if len(batch) == _TOKENIZE_AT_ONCE or num_characters >= _TOKENIZE_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _known(document: Document, ids_L: Int32, tokenizer: Tokenizer) -> Int32:
    """Return ids that the tokenizer knows."""
    if len(ids_L) and ids_L.max() >= tokenizer.vocab_size:
        raise CorpusError(
            f"{document.source}, document {document.document_id}",
            expected=f"token ids below {tokenizer.vocab_size:,}, as the teacher's tokenizer has",
            found=f"{ids_L.max()}",
            next_step="Tokenise with the teacher's tokenizer, or leave such documents out with "
            "--on-invalid skip.",
        )
    return ids_L
