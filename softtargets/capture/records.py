"""Records to documents: which fields are meant, and what is wrong with one that is not as said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from softtargets.capture.documents import DOCUMENT_LIMIT, Conversation, Document
from softtargets.errors import CorpusError, InputError
from softtargets.hashes import hash_bytes
from softtargets.limits import Limit
from softtargets.targets import Int32
from softtargets.texts import shortened

METADATA_LIMIT = Limit(
    variable="SOFTTARGETS_MAX_METADATA_BYTES", default=1 << 14, unit="bytes beside every window"
)


@dataclass(frozen=True, kw_only=True)
class RecordFields:
    """Which fields of a record are meant; a record holds a text, token ids or a conversation.

    Raises:
        InputError: the fields contradict each other.
    """

    text_field: str = "text"
    input_ids_field: str | None = None
    """Take token ids from this field instead of a text."""
    messages_field: str | None = None
    """Take a conversation from this field: a list of objects with `role` and `content`."""
    tools_field: str | None = None
    """The tools that a conversation's chat template is given."""
    chat_template: str | None = None
    """A Jinja template instead of the tokenizer's own."""
    train_on: Literal["assistant", "all"] = "assistant"
    """Which tokens of a conversation are targets."""
    id_field: str | None = None
    """Without it a document's id is its number in the file, from 0."""
    metadata_fields: tuple[str, ...] = ()
    """Kept beside the document's id. A string is kept as it is, a missing value or null as an
    empty string, anything else as JSON."""
    on_invalid: Literal["stop", "skip"] = "stop"
    """What to do at a document that is wrong; those that are skipped are counted."""

    def __post_init__(self) -> None:
        if self.input_ids_field is not None and self.messages_field is not None:
            raise InputError(
                "--input-ids-field, --messages-field",
                expected="one of them",
                found="both",
                next_step="A record holds token ids or a conversation.",
            )
        if len(set(self.metadata_fields)) < len(self.metadata_fields):
            raise InputError(
                "--metadata-field",
                expected="names that differ",
                found=", ".join(self.metadata_fields),
                next_step="Name each field once.",
            )
        for option, value in (
            ("--tools-field", self.tools_field),
            ("--chat-template", self.chat_template),
        ):
            if value is not None and self.messages_field is None:
                raise InputError(
                    option,
                    expected="--messages-field beside it",
                    found="none",
                    next_step="Only conversations have them.",
                )

    @property
    def lists_positions(self) -> bool:
        """Return whether only some positions of a document are targets."""
        return self.messages_field is not None and self.train_on == "assistant"

    def describe_fields(self) -> dict[str, Any]:
        """Return what decides the documents that records give, for the identity."""
        described: dict[str, Any] = {"id_field": self.id_field}
        if self.input_ids_field is not None:
            described["input_ids_field"] = self.input_ids_field
        elif self.messages_field is not None:
            described |= {"messages_field": self.messages_field, "train_on": self.train_on}
            if self.tools_field is not None:
                described["tools_field"] = self.tools_field
            if self.chat_template is not None:
                described["chat_template_sha256"] = hash_bytes(self.chat_template.encode())
        else:
            described["text_field"] = self.text_field
        if self.metadata_fields:
            described["metadata_fields"] = list(self.metadata_fields)
        return described | ({"on_invalid": "skip"} if self.on_invalid == "skip" else {})

    @property
    def content_field(self) -> str:
        """Return the field with the text, the token ids or the messages."""
        return self.input_ids_field or self.messages_field or self.text_field

    @property
    def fields(self) -> tuple[str, ...]:
        """Return every field that is read."""
        named = (self.content_field, self.id_field, self.tools_field, *self.metadata_fields)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def parse_record(self, record: Any, source: str, where: str, number: int) -> Document:
        """Return the document of one record.

        Args:
            record: a mapping from names to values.
            source: name of the file or dataset.
            where: the record's place, for messages.
            number: its id, unless a field has one.

        Raises:
            CorpusError: a field is missing or of another type.
        """
        content = self._content(record, where)
        name = number if self.id_field is None else record.get(self.id_field)
        if name is None:
            raise CorpusError(
                where,
                expected=f"a value in field '{self.id_field}'",
                found=_names_text(record),
                next_step="Name another field with --id-field, or omit the option.",
            )
        return Document(
            content=content,
            document_id=_kept_text(name, f"{where}, its id"),
            source=source,
            metadata={
                name: _kept_text(record.get(name), f"{where}, field '{name}'")
                for name in self.metadata_fields
            },
        )

    def _content(self, record: Any, where: str) -> str | Int32 | Conversation:
        if not isinstance(record, Mapping):
            raise self._wrong(where, "a record that is no object")
        if self.content_field not in record:
            raise self._wrong(where, _names_text(record))
        value = record[self.content_field]
        if self.messages_field is not None:
            tools = None if self.tools_field is None else record.get(self.tools_field)
            return self._conversation(value, tools, where)
        if self.input_ids_field is not None:
            return self._token_ids(value, where)
        return self._text(value, where)

    def _text(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            raise self._wrong(where, f"a {type(value).__name__} there")
        try:
            num_bytes = len(value.encode())
        except UnicodeEncodeError as error:
            raise self._wrong(where, f"half a surrogate pair at {error.start}") from error
        DOCUMENT_LIMIT.check(where, num_bytes)
        return value

    def _token_ids(self, value: Any, where: str) -> Int32:
        if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str | bytes):
            raise self._wrong(where, f"a {type(value).__name__} there")
        DOCUMENT_LIMIT.check(f"{where}, a token counted as a byte", len(value))
        try:
            numbers = np.asarray(value if len(value) else np.empty(0, np.int32))
        except ValueError as error:
            raise self._wrong(where, "lists within the list") from error
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise self._wrong(where, "other things than whole numbers")
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < 1 << 31:
            raise self._wrong(where, f"numbers from {numbers.min()} to {numbers.max()}")
        return numbers.astype(np.int32)

    def _conversation(self, value: Any, tools: Any, where: str) -> Conversation:
        messages = self._parsed(value, where)
        is_list = isinstance(messages, Sequence) and not isinstance(messages, str)
        if not is_list or not messages:
            raise self._wrong(where, f"{type(messages).__name__} there" if not is_list else "none")
        for place, message in enumerate(messages):
            role = message.get("role") if isinstance(message, Mapping) else None
            if not isinstance(role, str):
                raise self._wrong(f"{where}, message {place}", "a message without a role")
        tools = self._parsed(tools, where)
        if tools is not None and (not isinstance(tools, Sequence) or isinstance(tools, str)):
            raise self._wrong(where, f"a {type(tools).__name__} in field '{self.tools_field}'")
        return Conversation(
            messages=messages,
            tools=tools or None,
            chat_template=self.chat_template,
            train_on=self.train_on,
        )

    def _parsed(self, value: Any, where: str) -> Any:
        """Return a value that may be written as JSON in a string."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise self._wrong(
                where, f"a string that is no JSON: {shortened(str(error))}"
            ) from error

    def _wrong(self, where: str, found: str) -> CorpusError:
        kind, option = "a string", "--text-field"
        if self.input_ids_field is not None:
            kind, option = "a list of token ids", "--input-ids-field"
        elif self.messages_field is not None:
            kind, option = "a list of messages", "--messages-field"
        return CorpusError(
            where,
            expected=f"{kind} in field '{self.content_field}'",
            found=found,
            next_step=f"Mend the record, name another field with {option}, or leave such records "
            "out with --on-invalid skip.",
        )


def text_beside(record: Mapping[str, Any], field: str, where: str, option: str) -> str:
    """Return the second text of a record.

    Args:
        record: that has it.
        field: where.
        where: the record's place, for messages.
        option: that names the field.

    Raises:
        CorpusError: it is missing, or no text in UTF-8.
        LimitError: it is longer than a document is trusted to be.
    """
    value = record.get(field)
    if not isinstance(value, str):
        raise CorpusError(
            where,
            expected=f"a string in field '{field}', the second text",
            found=f"a {type(value).__name__} there" if value is not None else "none",
            next_step=f"Mend the record, name another field with {option}, or leave such records "
            "out with --on-invalid skip.",
        )
    DOCUMENT_LIMIT.check(where, len(value.encode("utf-8", "surrogatepass")))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"{where}, field '{field}'",
            expected="a text in UTF-8",
            found=f"half a surrogate pair at {error.start}",
            next_step="Mend the record, or leave such records out with --on-invalid skip.",
        ) from error
    return value


def without_nulls(value: Any) -> Any:
    """Return a value of a table without the nulls that its columns' types added.

    A column of messages has every key in each of them. `content` may be null by itself.
    """
    if isinstance(value, Mapping):
        return {
            name: without_nulls(one)
            for name, one in value.items()
            if one is not None or name == "content"
        }
    if isinstance(value, list):
        return [without_nulls(one) for one in value]
    return value


def _names_text(record: Mapping[str, Any]) -> str:
    return shortened(f"fields {sorted(record)}")


def _kept_text(value: Any, where: str) -> str:
    """Return an id or metadata as it is kept beside every window of a document.

    Raises:
        CorpusError: it cannot be.
        LimitError: it is longer than it is trusted to be.
    """
    try:
        is_text = value is None or isinstance(value, str)
        text = (value or "") if is_text else json.dumps(value, default=str)
        num_bytes = len(text.encode())
    except (ValueError, RecursionError) as error:
        raise CorpusError(
            where,
            expected="a text in UTF-8, or what JSON can hold",
            found=shortened(str(error)),
            next_step="Mend the record, or leave such records out with --on-invalid skip.",
        ) from error
    METADATA_LIMIT.check(where, num_bytes)
    return text
