"""Documents: what is read of a corpus, whatever holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, Protocol

from softtargets.errors import CorpusError
from softtargets.limits import Limit
from softtargets.targets import Int32

DOCUMENT_LIMIT = Limit(
    variable="SOFTTARGETS_MAX_DOCUMENT_BYTES", default=3_500_000, unit="bytes of one document"
)
"""Tokenizers take some 200 times the memory of a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages for the tokenizer's chat template, as they are."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Any] | None
    chat_template: str | None
    """Instead of the tokenizer's own."""
    train_on: Literal["assistant", "all"]
    """Whose tokens are targets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What is to be scored and where it came from."""

    content: str | Int32 | Conversation
    """A text, token ids [L], or messages."""
    document_id: str
    source: str
    """Name of its file, without the directory, or of its dataset."""
    metadata: Mapping[str, str] = field(default_factory=dict)


def raise_invalid(error: CorpusError) -> NoReturn:
    """Stop at a document that is wrong."""
    raise error


OnInvalid = Callable[[CorpusError], None]
"""Called with what is wrong with a document; when it returns, the document is left out."""


class Records(Protocol):
    """How the records of a corpus become documents."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Return every field that is read."""
        ...

    def parse_record(self, record: Any, source: str, where: str, number: int) -> Document:
        """Return the document of one record; see `records.RecordFields`."""
        ...
