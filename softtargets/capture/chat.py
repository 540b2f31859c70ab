"""Conversations to token ids, and which of them the assistant wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from softtargets.capture.documents import DOCUMENT_LIMIT, Conversation
from softtargets.errors import CorpusError
from softtargets.texts import shortened

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")

TEMPLATE_ERRORS = (
    TemplateError,
    TypeError,
    LookupError,
    ValueError,
    ArithmeticError,
    AttributeError,
    RecursionError,
    MemoryError,
)
"""What a template's code may raise about messages that it does not expect."""


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, where: str
) -> tuple[list[int], list[bool] | None]:
    """Return the ids of a conversation under its chat template, and which are the assistant's.

    A template that marks with `{% generation %}` what the assistant writes is believed. With any
    other, a turn of the assistant is what the template adds after the prompt to generate one, less
    the white space at its end, which stands between turns.

    Raises:
        CorpusError: there is no template, it refuses the messages, or it changes earlier turns when
            later ones are added, so that nobody can say where a turn is.
    """
    with _rendering(tokenizer, conversation, where) as renderer:
        if conversation.train_on == "all":
            return _encode(tokenizer, renderer.text())[0], None
        if has_generation_tags(tokenizer, conversation):
            return encode_marked(renderer)
        return _encode_turns(renderer, where)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, where: str
) -> list[int]:
    """Return the ids of a conversation under its chat template, up to the assistant's next turn.

    Raises:
        CorpusError: there is no template, or it refuses the messages.
    """
    with _rendering(tokenizer, conversation, where) as renderer:
        text = renderer.text(prompts=True)
        DOCUMENT_LIMIT.check("a conversation, as the chat template writes it", len(text.encode()))
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids


@contextmanager
def _rendering(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, where: str
) -> Iterator[Renderer]:
    """Yield what renders a conversation, and say which one its template refuses."""
    if not conversation.chat_template and tokenizer.chat_template is None:
        raise CorpusError(
            where,
            expected="a chat template in the tokenizer",
            found="none",
            next_step="Pass one with --chat-template FILE.",
        )
    try:
        yield Renderer(tokenizer, conversation)
    except TEMPLATE_ERRORS as error:
        raise CorpusError(
            where,
            expected="messages that the chat template takes",
            found=shortened(f"{type(error).__name__}: {error}"),
            next_step="Mend them, pass another --chat-template, or leave such conversations out "
            "with --on-invalid skip.",
        ) from error


def has_generation_tags(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> bool:
    """Return whether the template of a conversation marks what the assistant writes."""
    template = conversation.chat_template or tokenizer.chat_template
    return isinstance(template, str) and _GENERATION_TAG.search(template) is not None


@dataclass(frozen=True, slots=True)
class Renderer:
    """A tokenizer's chat template, and a conversation for it."""

    tokenizer: PreTrainedTokenizerBase
    conversation: Conversation

    def text(self, num_messages: int | None = None, *, prompts: bool = False) -> str:
        """Return the text of the first messages; with the prompt for the next turn if asked."""
        return str(self.apply(num_messages, add_generation_prompt=prompts, tokenize=False))

    def apply(self, num_messages: int | None = None, **options: Any) -> Any:
        """Return what the template makes of the first messages."""
        messages: Any = list(self.conversation.messages[:num_messages])
        tools: Any = self.conversation.tools
        template = self.conversation.chat_template
        return self.tokenizer.apply_chat_template(
            messages, tools=tools, chat_template=template, **options
        )


def encode_marked(renderer: Renderer) -> tuple[list[int], list[bool]]:
    """Return the ids of a conversation, and which of them the template's tags mark."""
    encoded = renderer.apply(return_dict=True, return_assistant_tokens_mask=True)
    return encoded["input_ids"], [bool(one) for one in encoded["assistant_masks"]]


def _encode_turns(renderer: Renderer, where: str) -> tuple[list[int], list[bool]]:
    text = renderer.text()
    turns = list(_turns(renderer, text, where))
    ids, spans = _encode(renderer.tokenizer, text)
    return ids, [
        any(first <= start < stop <= last for first, last in turns) for start, stop in spans
    ]


def _turns(renderer: Renderer, text: str, where: str) -> Iterator[tuple[int, int]]:
    """Yield where the text of each of the assistant's turns begins and ends."""
    for place, message in enumerate(renderer.conversation.messages):
        if message["role"] != "assistant":
            continue
        before = renderer.text(place, prompts=True)
        until = renderer.text(place + 1)
        if not text.startswith(until) or not until.startswith(before):
            if text.startswith(until) and until == renderer.text(place):
                continue  # Nothing is written of this turn, so nothing of it is a target.
            raise CorpusError(
                where,
                expected="a chat template that leaves earlier turns as they are, or marks the "
                "assistant's with {% generation %}",
                found=f"one that writes message {place} otherwise when others follow",
                next_step="Pass a template with the tags (--chat-template FILE), or --train-on "
                "all.",
            )
        yield len(before), len(until.rstrip())


def _encode(
    tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the ids of a rendered text and each token's place in it."""
    DOCUMENT_LIMIT.check("a conversation, as the chat template writes it", len(text.encode()))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids: list[int] = encoded["input_ids"]
    return ids, encoded["offset_mapping"]
