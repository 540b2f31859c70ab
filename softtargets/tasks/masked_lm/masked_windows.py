"""Documents to masked windows, each between the special tokens of the teacher's tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from softtargets.capture.documents import Document, OnInvalid
from softtargets.capture.repeats import counted, each_once, without_repeats
from softtargets.capture.teacher_tokenizer import SpecialIds, Tokenizer
from softtargets.capture.windows import Windowing, tokenized_together
from softtargets.errors import CorpusError
from softtargets.targets import TOKEN, Bool, Int32
from softtargets.tasks.masked_lm.masking import Masking
from softtargets.tokenizer import Vocabulary
from softtargets.window import TokenWindow, hash_window


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedWindows:
    """Makes the windows of a build."""

    windowing: Windowing
    """How documents are cut, with room for the special tokens left."""
    num_copies: int
    """How often each window is masked."""
    special: SpecialIds

    def pieces(
        self,
        documents: Iterable[Document],
        tokenizer: Tokenizer,
        counts: Counter[str],
        on_invalid: OnInvalid,
    ) -> Iterator[TokenWindow]:
        """Yield what is to be masked, in the order of the corpus, repeats included.

        Args:
            documents: what is cut.
            tokenizer: the teacher's.
            counts: is added to.
            on_invalid: called for a document that is empty, or has ids that are none.
        """
        bare = bare_documents(documents, tokenizer, self.special, on_invalid)
        return self.windowing.pieces(
            bare, tokenizer, counts, convention=TOKEN, on_invalid=on_invalid
        )

    def maskings(
        self, pieces: Iterable[TokenWindow], masking: Masking, counts: Counter[str]
    ) -> Iterator[TokenWindow]:
        """Yield the maskings of each piece, one after the other.

        Of a short window two maskings may be the same; the second is left out, as is a window of
        nothing but special tokens. `counts` is told of both.
        """
        maskings = (self._maskings(piece, masking, counts) for piece in pieces)
        if self.windowing.overlap:
            # Two pieces may have the same tokens, and other targets.
            return each_once(chain.from_iterable(maskings), counts)
        # The tokens of a piece follow from any of its maskings, so no other piece has the same.
        return counted(
            chain.from_iterable(without_repeats(one, counts) for one in maskings), counts
        )

    def _maskings(
        self, piece: TokenWindow, masking: Masking, counts: Counter[str]
    ) -> Iterator[TokenWindow]:
        may_L = piece.mask_T & ~np.isin(piece.input_ids_L, self.special.every)
        if not may_L.any():
            counts["untargeted_windows"] += 1
            return
        for copy in range(self.num_copies):
            yield self._masked(piece, masking, may_L, copy)

    def _masked(self, window: TokenWindow, masking: Masking, may_L: Bool, copy: int) -> TokenWindow:
        """Return a masking of a window, between special tokens."""
        found = masking.mask(window.input_ids_L, may_L, window.window_id, copy)
        before, after = (
            np.array(one, np.int32) for one in (self.special.before, self.special.after)
        )
        input_ids_L = np.concatenate([before, found.input_ids_L, after])
        lengths_1 = np.array([len(input_ids_L)], np.int32)
        mask_T = np.ones(len(found.positions_T), np.bool_)
        positions_T = found.positions_T + np.int32(len(before))
        labels_T = found.label_ids_T
        return replace(
            window,
            window_id=hash_window(
                input_ids_L, lengths_1, mask_T, positions_T=positions_T, label_ids_T=labels_T
            ),
            input_ids_L=input_ids_L,
            segment_lengths_S=lengths_1,
            mask_T=mask_T,
            positions_T=positions_T,
            label_ids_T=labels_T,
        )


def bare_documents(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    special: SpecialIds,
    on_invalid: OnInvalid,
) -> Iterator[Document]:
    """Yield documents of token ids, without the special tokens at their ends.

    Args:
        documents: texts, or token ids.
        tokenizer: the teacher's.
        special: of the tokenizer.
        on_invalid: called for a document that has nothing else.
    """
    for batch in tokenized_together(documents):
        texts = [one.content for one in batch if isinstance(one.content, str)]
        encoded = iter(tokenizer.encode_batch(texts) if texts else ())
        for document in batch:
            content = document.content
            ids_L = np.asarray(next(encoded) if isinstance(content, str) else content, np.int32)
            ids_L = _bare(ids_L, special)
            if len(ids_L):
                yield replace(document, content=ids_L)
            else:
                on_invalid(_empty(document))


def _bare(ids_L: Int32, special: SpecialIds) -> Int32:
    """Return ids without special tokens at both ends, where they stand at both."""
    num_before, num_after = len(special.before), len(special.after)
    stop = len(ids_L) - num_after
    is_framed = (
        stop >= num_before
        and tuple(ids_L[:num_before]) == special.before
        and tuple(ids_L[stop:]) == special.after
    )
    return ids_L[num_before:stop] if is_framed else ids_L


def _empty(document: Document) -> CorpusError:
    return CorpusError(
        f"{document.source}, document {document.document_id}",
        expected="a text of one token at least",
        found="an empty one",
        next_step="Remove it, or leave such documents out with --on-invalid skip.",
    )


def word_starts(vocabulary: Vocabulary, num_ids: int) -> Bool:
    """Return which ids begin a word: those that add a space before their text, [W].

    Of a token whose text is not known it is taken that it does.
    """
    starts_W = np.ones(num_ids, np.bool_)
    for token_id, text in zip(vocabulary.ids_N.tolist(), vocabulary.utf8, strict=True):
        starts_W[token_id] = text is None or text[:1].isspace()
    return starts_W
