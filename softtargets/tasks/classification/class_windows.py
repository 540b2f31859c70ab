"""Texts to windows: one each, cut at its end or refused where it is longer than the model reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from softtargets.capture.documents import Document, OnInvalid
from softtargets.capture.windows import Windowing, tokenized_together
from softtargets.errors import CorpusError
from softtargets.targets import TOKEN, UNKNOWN_LABEL, Int32
from softtargets.tasks.classification.class_tokenizer import ClassTokenizer, EncodedText
from softtargets.tasks.classification.labelled_texts import LabelledText, empty_text
from softtargets.texts import plural, shortened
from softtargets.window import TokenWindow, hash_window

_LABELLED = "labelled_documents"
"""Counted beside what a manifest keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassWindows:
    """Makes windows of texts to be classified."""

    tokenizer: ClassTokenizer
    windowing: Windowing
    """How long texts may be, and whether longer ones are cut."""
    has_pair: bool
    label_field: str | None
    counts: Counter[str]
    """Is added to, under the names of `softtargets.capture.windows.COUNTS`."""

    def windows(
        self, documents: Iterable[Document], on_invalid: OnInvalid
    ) -> Iterator[TokenWindow]:
        """Yield a window for each text, in the order of the corpus, repeats included.

        Raises:
            CorpusError: a text is empty or too long, or a label is none of the teacher's; from
                `on_invalid`.
        """
        for text, encoded in self._encoded(documents, on_invalid):
            try:
                window = self._window(text, encoded)
            except CorpusError as error:
                on_invalid(error)
                continue
            self.counts["documents"] += 1
            self.counts[_LABELLED] += text.label is not None
            self.counts["truncated_tokens"] += encoded.num_truncated
            yield window

    def _encoded(
        self, documents: Iterable[Document], on_invalid: OnInvalid
    ) -> Iterator[tuple[LabelledText, EncodedText]]:
        """Yield texts with their tokens; those that follow each other are tokenized together."""
        most = self.tokenizer.most_tokens(self.windowing.sequence_length)
        for batch in tokenized_together(documents):
            texts = [one for document in batch if (one := self._text(document, on_invalid))]
            for _, group in groupby(texts, key=lambda one: one.words is None):
                alike = list(group)
                yield from zip(alike, self.tokenizer.encode_texts(alike, most), strict=True)

    def _text(self, document: Document, on_invalid: OnInvalid) -> LabelledText | None:
        """Return a document as a text; a file that is one document has no label."""
        if isinstance(document, LabelledText):
            return document
        text = LabelledText.of(document, where=f"{document.source}, which is one text")
        if self.has_pair:
            on_invalid(
                CorpusError(
                    text.where,
                    expected="a second text, as --text-pair-field asks for",
                    found="a file without fields",
                    next_step="Pass records in a .jsonl or .parquet file.",
                )
            )
            return None
        return text

    def _window(self, text: LabelledText, encoded: EncodedText) -> TokenWindow:
        if not encoded.is_text_L.any():
            raise empty_text(text.where)
        if encoded.num_truncated and self.windowing.kind != "truncate":
            raise CorpusError(
                text.where,
                expected=f"a text of at most {plural(len(encoded), 'token')}, as the model reads",
                found=f"{len(encoded) + encoded.num_truncated:,} tokens",
                next_step="Pass --window truncate to keep the beginning of such texts, or leave "
                "them out with --on-invalid skip.",
            )
        tells_types = self.tokenizer.tells_types[self.has_pair]
        arrays: dict[str, Any] = {
            "input_ids_L": encoded.input_ids_L,
            "segment_lengths_S": np.array([len(encoded)], np.int32),
            "token_types_L": encoded.token_types_L if tells_types else None,
            **self._targets(text, encoded),
        }
        return TokenWindow(
            window_id=hash_window(**arrays),
            **arrays,
            document_ids=(text.document_id,),
            offset=0,
            source=text.source,
            metadata={name: (value,) for name, value in text.metadata.items()},
        )

    def _targets(self, text: LabelledText, encoded: EncodedText) -> dict[str, Any]:
        """Return where the targets are and their labels, as `TokenWindow` calls them."""
        labels, label = self.tokenizer.labels, text.label
        if self.tokenizer.convention == TOKEN:
            positions_T = np.flatnonzero(encoded.is_text_L).astype(np.int32)
            found: dict[str, Any] = {
                "positions_T": positions_T,
                "mask_T": np.ones(len(positions_T), np.bool_),
            }
            if self.label_field is not None:
                found["label_ids_T"] = self._word_labels(text, encoded.words_L[positions_T])
            return found
        found = {"mask_T": np.array([True])}
        if self.label_field is None:
            return found
        if labels.problem is None:
            return found | {"label_ids_T": np.array([labels.number(label, text.where)], np.int32)}
        return found | {"label_values_F": labels.values(label, text.where)}

    def _word_labels(self, text: LabelledText, words_T: Int32) -> Int32:
        """Return the label of each target that is the first of its word."""
        label, words = text.label, text.words
        if label is None:
            return np.full(len(words_T), UNKNOWN_LABEL, np.int32)
        is_list = isinstance(label, Sequence) and not isinstance(label, str | bytes)
        if words is None or not is_list or len(label) != len(words):
            raise CorpusError(
                f"{text.where}, its label",
                expected="a list of words as the text, and a list of as many labels"
                if words is None
                else f"a list of {len(words)} labels, one for each word",
                found="a text that is not in words"
                if words is None
                else f"{len(label)}"
                if is_list
                else shortened(f"{label!r}"),
                next_step="Mend the record, or omit --label-field.",
            )
        numbers = [self.tokenizer.labels.number(one, text.where) for one in label]
        numbers_W = np.array([*numbers, UNKNOWN_LABEL], np.int32)
        # A target that is not the first of its word has -1 for a word, and so the last of these.
        return numbers_W[words_T]


def check_labelled(label_field: str | None, counts: Mapping[str, int]) -> None:
    """Check that a corpus has labels, if they are asked for.

    Args:
        label_field: the field of the label.
        counts: of all documents.

    Raises:
        CorpusError: no record has the field.
    """
    if label_field is not None and counts["documents"] and not counts[_LABELLED]:
        raise CorpusError(
            "the corpus",
            expected=f"a label in field '{label_field}' of some record",
            found="none in any",
            next_step="Name another field with --label-field, or omit the option.",
        )
