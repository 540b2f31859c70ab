"""What a chat template does not write of a conversation, found by rendering with and without it.

A template that never mentions tools, a role or a field drops them without an error, and the teacher
reads another conversation than the record holds. What is dropped depends on the conversation's
shape (its roles, and which fields are there), so a shape is tried once. Templates also cut a
message by what it says, for example the thoughts before `</think>`: that is looked for in each.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from softtargets.capture.chat import TEMPLATE_ERRORS, Renderer, encode_marked, has_generation_tags
from softtargets.capture.documents import Conversation, Document
from softtargets.texts import plural, shortened, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OTHER = "Zvqxk"
"""Text that no conversation has, to see whether what stood in its place was written."""
_LABELS = ("role", "id", "tool_call_id", "type", "name")
"""Fields that say which message is meant; few templates write them, and nothing is lost."""
_MOST_LINES = 10
"""Parts that are warned of; all are counted."""

_WORD = re.compile(r"\w+")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusedPart:
    """A part of conversations that the chat template does not write."""

    part: str
    """What people call it."""
    num_documents: int
    first: str
    """The first document that has it, and its file."""


class UnusedTally:
    """Which parts of a corpus's conversations are not written, and how often."""

    def __init__(self) -> None:
        self.num_documents = 0
        """Conversations of which any part is not written."""
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, document: Document, parts: Sequence[str]) -> None:
        """Count the parts of one conversation that are not written."""
        self.num_documents += bool(parts)
        for part in parts:
            self._counts[part] += 1
            self._first.setdefault(part, f"{document.source}, document {document.document_id}")

    def to_dict(self) -> dict[str, Any]:
        """Return what was counted, as JSON has it."""
        return {
            "num_documents": self.num_documents,
            "counts": self._counts,
            "first": self._first,
        }

    def add_counts(self, counted: Mapping[str, Any]) -> None:
        """Add what was counted of documents that come after these."""
        self.num_documents += counted["num_documents"]
        self._counts.update(counted["counts"])
        self._first = counted["first"] | self._first

    @property
    def parts(self) -> tuple[UnusedPart, ...]:
        """Return every part, the most frequent first."""
        return tuple(
            UnusedPart(part=part, num_documents=count, first=self._first[part])
            for part, count in self._counts.most_common()
        )

    def warn(self) -> None:
        """Log a line for each part; nothing if all was written."""
        for one in self.parts[:_MOST_LINES]:
            _log.warning(
                "The chat template leaves out the %s: in %s, the first of them %s. Pass a template "
                "that writes them with --chat-template FILE; softtargets plan prints a "
                "conversation as the teacher reads it.",
                shortened(shown(one.part)),
                plural(one.num_documents, "conversation"),
                shortened(shown(one.first)),
            )


class UnusedParts:
    """Finds what a tokenizer's chat template does not write."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._known: dict[tuple[Any, ...], tuple[str, ...]] = {}

    def of(self, conversation: Conversation) -> tuple[str, ...]:
        """Return the names of the parts, each once; the conversation can be rendered."""
        trial = _Trial(self._tokenizer, conversation)
        shape = _shape(conversation)
        if shape not in self._known:
            self._known[shape] = tuple(dict.fromkeys(trial.unused_by_shape()))
        found = self._known[shape]
        return (*found, *dict.fromkeys(trial.unused_by_content(found)))


class _Trial:
    """One conversation, rendered as it is and with parts of it changed."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> None:
        self._tokenizer = tokenizer
        self._conversation = conversation
        self._messages = conversation.messages
        self._text = Renderer(tokenizer, conversation).text()

    def unused_by_shape(self) -> Iterator[str]:
        """Yield what every conversation of this shape loses."""
        if self._conversation.tools and self._is_same(tools=None):
            yield "tools"
        silent: Counter[str] = Counter()
        for place, message in enumerate(self._messages):
            role = message["role"]
            for field, value in message.items():
                if field in _LABELS or not value or isinstance(value, bool | int | float):
                    continue
                for name, changed in _changes(field, value):
                    if self._is_same(messages=self._with(place, field, changed)):
                        silent[role] += field == "content"
                        yield f"{name} of {role} messages"
        for role, count in Counter(message["role"] for message in self._messages).items():
            if silent[role] < count and self._is_same(messages=self._recast(role)):
                yield f"role of {role} messages"
        yield from self._unmarked()

    def unused_by_content(self, found: Sequence[str]) -> Iterator[str]:
        """Yield what this conversation loses because of what it says."""
        for place, message in enumerate(self._messages):
            content, role = message.get("content"), message["role"]
            is_known = f"content of {role} messages" in found
            if not isinstance(content, str) or is_known or content.strip() in self._text:
                continue
            # A word that was dropped can be another without a difference; one that is written in
            # other characters cannot.
            words = (word for word in _WORD.findall(content) if word not in self._text)
            if (missing := next(words, None)) is not None:
                changed = content.replace(missing, _OTHER, 1)
                if self._is_same(messages=self._with(place, "content", changed)):
                    yield f"whole content of {role} messages"

    def _unmarked(self) -> Iterator[str]:
        """Yield the assistant's turns if a template with tags marks fewer of them."""
        conversation = self._conversation
        if conversation.train_on == "all" or not has_generation_tags(self._tokenizer, conversation):
            return
        _, is_target = encode_marked(Renderer(self._tokenizer, conversation))
        num_marked = sum(
            one and not before for before, one in zip([False, *is_target], is_target, strict=False)
        )
        if num_marked < sum(message["role"] == "assistant" for message in self._messages):
            yield "{% generation %} tags around some assistant messages, which are no targets then"

    def _with(self, place: int, field: str, value: Any) -> list[Mapping[str, Any]]:
        """Return the messages with a field of one changed, or removed if the value is None."""
        message = {name: one for name, one in self._messages[place].items() if name != field}
        message |= {} if value is None else {field: value}
        return [*self._messages[:place], message, *self._messages[place + 1 :]]

    def _recast(self, role: str) -> list[Mapping[str, Any]]:
        """Return the messages of a role as if another had said them."""
        other = "assistant" if role == "user" else "user"
        return [{**one, "role": other} if one["role"] == role else one for one in self._messages]

    def _is_same(self, **changes: Any) -> bool:
        """Return whether a changed conversation is written alike; a refusal is a difference."""
        changed = replace(self._conversation, **changes)
        try:
            return Renderer(self._tokenizer, changed).text() == self._text
        except TEMPLATE_ERRORS:
            return False


def _shape(conversation: Conversation) -> tuple[Any, ...]:
    """Return what decides which parts a template looks at."""
    messages = tuple(
        (message["role"], *((name, _kind(value)) for name, value in sorted(message.items())))
        for message in conversation.messages
    )
    return bool(conversation.tools), conversation.chat_template, messages


def _kind(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(one.get("type") if isinstance(one, Mapping) else "" for one in value)
    return type(value).__name__, bool(value)


def _changes(field: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield names of parts of a field, and the field with that part changed."""
    if isinstance(value, str):
        yield field, _OTHER
    elif field == "content" and isinstance(value, list):
        for place, item in enumerate(value):
            changed = _replaced(item)
            if changed != item:
                kind = item.get("type", "text") if isinstance(item, Mapping) else "text"
                name = field if kind == "text" else f"{kind} items in the content"
                yield name, [*value[:place], changed, *value[place + 1 :]]
    else:
        yield field, None


def _replaced(value: Any) -> Any:
    """Return a value with another text in place of each, but for what says its type."""
    if isinstance(value, str):
        return _OTHER
    if isinstance(value, Mapping):
        return {name: one if name == "type" else _replaced(one) for name, one in value.items()}
    return [_replaced(one) for one in value] if isinstance(value, list) else value
