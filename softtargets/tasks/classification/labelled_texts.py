"""Records to texts to be classified: a text or its words, perhaps a second one, perhaps a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from softtargets.capture.documents import Document, Records
from softtargets.capture.records import RecordFields, text_beside
from softtargets.errors import CorpusError
from softtargets.texts import shortened


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledText(Document):
    """A text with what its record says of it; `content` is the text."""

    where: str
    """The record's place, for messages."""
    pair: str | None = None
    """The second text."""
    words: tuple[str, ...] | None = None
    """The words of the text, if it came in words."""
    label: Any = None
    """As the record has it, unchecked; None where it has none."""

    @classmethod
    def of(cls, document: Document, **own: Any) -> LabelledText:
        """Return a document with what is known beside it."""
        shared = {one.name: getattr(document, one.name) for one in fields(Document)}
        return cls(**shared, **own)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRecords(Records):
    """Records with a text, or a list of its words, and further fields if they are named."""

    corpus: RecordFields
    pair_field: str | None
    label_field: str | None

    @property
    def fields(self) -> tuple[str, ...]:
        """Return every field that is read."""
        own = (name for name in (self.pair_field, self.label_field) if name is not None)
        return tuple(dict.fromkeys((*self.corpus.fields, *own)))

    def parse_record(self, record: Any, source: str, where: str, number: int) -> LabelledText:
        """Return the text of one record; a label that is missing or null is none.

        Raises:
            CorpusError: a field is missing, of another type, or has an empty text.
        """
        words = self._words(record, where)
        if words is not None:
            record = {**record, self.corpus.text_field: " ".join(words)}
        document = self.corpus.parse_record(record, source, where, number)
        pair = None
        if self.pair_field is not None:
            pair = text_beside(record, self.pair_field, where, "--text-pair-field")
        for name, text in ((self.corpus.text_field, document.content), (self.pair_field, pair)):
            if isinstance(text, str) and not text.strip():
                raise empty_text(f"{where}, field '{name}'")
        label = None if self.label_field is None else record.get(self.label_field)
        return LabelledText.of(document, where=where, pair=pair, words=words, label=label)

    def _words(self, record: Any, where: str) -> tuple[str, ...] | None:
        """Return the words of a record whose text is a list of them."""
        value = record.get(self.corpus.text_field) if isinstance(record, Mapping) else None
        if isinstance(value, str) or not isinstance(value, Sequence):
            return None
        if not all(isinstance(one, str) and one.strip() for one in value):
            raise CorpusError(
                f"{where}, field '{self.corpus.text_field}'",
                expected="a text, or a list of words that are not empty",
                found=shortened(f"{value!r}"),
                next_step="Mend the record, or leave such records out with --on-invalid skip.",
            )
        return tuple(value)


def empty_text(where: str) -> CorpusError:
    """Return the error of a text in which there is nothing to classify."""
    return CorpusError(
        where,
        expected="a text with at least one token",
        found="an empty one",
        next_step="Mend or remove the record, or leave such records out with --on-invalid skip.",
    )
