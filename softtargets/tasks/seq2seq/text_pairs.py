"""Records to pairs of a source and a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from softtargets.capture.documents import Document, Records
from softtargets.capture.records import RecordFields, text_beside
from softtargets.errors import CorpusError


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPair(Document):
    """A source, which is `content`, and its target."""

    where: str
    """The record's place, for messages."""
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRecords(Records):
    """Records with a source and a target."""

    corpus: RecordFields
    target_field: str

    @property
    def fields(self) -> tuple[str, ...]:
        """Return every field that is read."""
        return tuple(dict.fromkeys((*self.corpus.fields, self.target_field)))

    def parse_record(self, record: Any, source: str, where: str, number: int) -> TextPair:
        """Return the pair of one record.

        Raises:
            CorpusError: a field is missing, of another type, or has an empty text.
        """
        document = self.corpus.parse_record(record, source, where, number)
        assert isinstance(record, Mapping)
        target = text_beside(record, self.target_field, where, "--target-field")
        for name, text in ((self.corpus.text_field, document.content), (self.target_field, target)):
            if isinstance(text, str) and not text.strip():
                raise empty_text(f"{where}, field '{name}'")
        shared = {one.name: getattr(document, one.name) for one in fields(Document)}
        return TextPair(**shared, where=where, target=target)


def empty_text(where: str) -> CorpusError:
    """Return the error of a pair in which there is nothing to read, or nothing to write."""
    return CorpusError(
        where,
        expected="a text with at least one token",
        found="an empty one",
        next_step="Mend or remove the record, or leave such records out with --on-invalid skip.",
    )
