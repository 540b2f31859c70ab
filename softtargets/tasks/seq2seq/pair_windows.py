"""Pairs to windows: one each, cut at the end of its texts or refused where one is too long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from softtargets.capture.documents import Document, OnInvalid
from softtargets.capture.windows import (
    TRUNCATED_SOURCE,
    TRUNCATED_TARGET,
    Windowing,
    tokenized_together,
)
from softtargets.errors import CorpusError
from softtargets.tasks.seq2seq.pair_tokenizer import EncodedPair, PairTokenizer
from softtargets.tasks.seq2seq.text_pairs import TextPair, empty_text
from softtargets.texts import plural
from softtargets.window import TokenWindow, hash_window


@dataclass(frozen=True, slots=True, kw_only=True)
class PairWindows:
    """Makes windows of pairs."""

    tokenizer: PairTokenizer
    windowing: Windowing
    """How long each of the texts may be, and whether longer ones are cut."""
    source_prefix: str
    counts: Counter[str]
    """Is added to, under the names of `softtargets.capture.windows.COUNTS`."""

    def windows(
        self, documents: Iterable[Document], on_invalid: OnInvalid
    ) -> Iterator[TokenWindow]:
        """Yield a window for each pair, in the order of the corpus, repeats included.

        Raises:
            CorpusError: a text is empty or too long, or there is no target; from `on_invalid`.
        """
        most = self.tokenizer.most_tokens(self.windowing.sequence_length)
        for batch in tokenized_together(documents):
            pairs = [one for document in batch if (one := _pair(document, on_invalid))]
            sources = [f"{self.source_prefix}{one.content}" for one in pairs]
            targets = [one.target for one in pairs]
            encoded = self.tokenizer.encode_pairs(sources, targets, most) if pairs else ()
            for pair, ids in zip(pairs, encoded, strict=True):
                try:
                    window = self._window(pair, ids, most)
                except CorpusError as error:
                    on_invalid(error)
                    continue
                self.counts["documents"] += 1
                self._count_truncated(ids)
                yield window

    def _count_truncated(self, ids: EncodedPair) -> None:
        of_source = ids.num_source - len(ids.source_M)
        of_target = ids.num_target - len(ids.target_L)
        self.counts[TRUNCATED_SOURCE] += of_source
        self.counts[TRUNCATED_TARGET] += of_target
        self.counts["truncated_tokens"] += of_source + of_target

    def _window(self, pair: TextPair, ids: EncodedPair, most: int) -> TokenWindow:
        if not len(ids.source_M) or ids.num_target < 2:
            raise empty_text(pair.where)
        for what, number in (("source", ids.num_source), ("target", ids.num_target)):
            if number > most and self.windowing.kind != "truncate":
                raise too_long(f"{pair.where}, its {what}", most, number)
        arrays: dict[str, Any] = {
            "input_ids_L": ids.target_L,
            "segment_lengths_S": np.array([len(ids.target_L)], np.int32),
            "mask_T": np.ones(len(ids.target_L) - 1, np.bool_),
            "encoder_ids_M": ids.source_M,
        }
        return TokenWindow(
            window_id=hash_window(**arrays),
            **arrays,
            document_ids=(pair.document_id,),
            offset=0,
            source=pair.source,
            metadata={name: (value,) for name, value in pair.metadata.items()},
        )


def too_long(where: str, most: int, number: int) -> CorpusError:
    """Return the error of a text that has more tokens than the model reads."""
    return CorpusError(
        where,
        expected=f"at most {plural(most, 'token')}, as --sequence-length says or the model has "
        "positions for",
        found=f"{number:,}",
        next_step="Pass --window truncate to keep the beginning of such texts, or leave them out "
        "with --on-invalid skip.",
    )


def _pair(document: Document, on_invalid: OnInvalid) -> TextPair | None:
    """Return a document as a pair; a file that is one document has no target."""
    if isinstance(document, TextPair):
        return document
    on_invalid(
        CorpusError(
            f"{document.source}, which is one text",
            expected="a source and a target",
            found="a file without fields",
            next_step="Pass records in a .jsonl or .parquet file.",
        )
    )
    return None
