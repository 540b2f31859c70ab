"""The teacher's tokenizer: what it makes of a text, and what it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from softtargets.capture.chat import encode_conversation
from softtargets.capture.records import Conversation
from softtargets.errors import TeacherError
from softtargets.tokenizer import describe_tokenizer


class Tokenizer(Protocol):
    """What windowing needs of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Return how many ids are known, added tokens included."""
        ...

    @property
    def end_of_text_id(self) -> int | None:
        """Return the id of the token that ends a text, if there is one."""
        ...

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text, with the special tokens the teacher was trained with."""
        ...

    def encode_conversation(
        self, conversation: Conversation, where: str
    ) -> tuple[list[int], list[bool] | None]:
        """Return the ids of a conversation, and which are targets; None when all are.

        Raises:
            CorpusError: it cannot be rendered; `where` says which it is.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return what decides the ids, for the identity."""
        ...

    def describe_chat(self) -> dict[str, Any]:
        """Return what decides the ids of conversations beside that."""
        ...


class TransformersTokenizer:
    """A tokenizer loaded by transformers."""

    def __init__(self, directory: Path, *, trust_remote_code: bool) -> None:
        try:
            self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                directory, trust_remote_code=trust_remote_code
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise TeacherError(
                str(directory),
                expected="a tokenizer that transformers can load",
                found=str(error).splitlines()[0],
                next_step="Save it there with tokenizer.save_pretrained(directory).",
            ) from error

    @property
    def vocab_size(self) -> int:
        """Return how many ids are known, added tokens included."""
        return len(self._tokenizer)

    @property
    def end_of_text_id(self) -> int | None:
        """Return the id of the token that ends a text, if there is one."""
        found: int | None = self._tokenizer.eos_token_id
        return found

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text, with the special tokens the tokenizer adds by default."""
        ids: list[list[int]] = self._tokenizer(texts, return_attention_mask=False, verbose=False)[
            "input_ids"
        ]
        return ids

    def encode_conversation(
        self, conversation: Conversation, where: str
    ) -> tuple[list[int], list[bool] | None]:
        """Return the ids of a conversation, and which are the assistant's; None for no matter."""
        return encode_conversation(self._tokenizer, conversation, where)

    def describe_chat(self) -> dict[str, Any]:
        """Return the hash of the tokenizer's chat template."""
        template = json.dumps(self._tokenizer.chat_template, sort_keys=True)
        return {"chat_template_sha256": hashlib.sha256(template.encode()).hexdigest()}

    def describe(self) -> dict[str, Any]:
        """Return the hash of the tokenizer's content, and its size."""
        return describe_tokenizer(self._tokenizer)
