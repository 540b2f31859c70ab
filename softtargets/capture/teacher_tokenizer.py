"""The teacher's tokenizer: what it makes of a text, and what it is."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from softtargets.capture.chat import encode_conversation, encode_prompt
from softtargets.capture.documents import Conversation
from softtargets.capture.unused import UnusedParts
from softtargets.errors import TeacherError, error_text
from softtargets.tokenizer import Vocabulary, describe_tokenizer, no_collections, tokens_by_id


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

    def vocabulary(self) -> Vocabulary:
        """Return every token, to be stored beside the targets."""
        ...

    def describe_chat(self) -> dict[str, Any]:
        """Return what decides the ids of conversations beside that."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds:
    """Ids that are no text."""

    before: tuple[int, ...]
    """What `encode_batch` puts before each text."""
    after: tuple[int, ...]
    """What it puts after each."""
    every: tuple[int, ...]
    """All of them, rising, wherever they stand."""
    mask: int | None
    """The one that stands for what is to be predicted, if there is one."""


@runtime_checkable
class SpecialTokenizer(Protocol):
    """A tokenizer that can also say which ids are no text."""

    def special_ids(self) -> SpecialIds:
        """Return them."""
        ...


@runtime_checkable
class ChatTokenizer(Protocol):
    """A tokenizer that can also say what its chat template does not write."""

    def unused_parts(self, conversation: Conversation) -> tuple[str, ...]:
        """Return names of the parts of a conversation that leave no trace in its ids."""
        ...


class TransformersTokenizer:
    """A tokenizer loaded by transformers."""

    def __init__(
        self, directory: Path, *, trust_remote_code: bool, gguf_file: str | None = None
    ) -> None:
        given = {} if gguf_file is None else {"gguf_file": gguf_file}
        try:
            with no_collections():
                self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                    directory, trust_remote_code=trust_remote_code, **given
                )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise TeacherError(
                str(directory),
                expected="a tokenizer that transformers can load",
                found=error_text(error),
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

    def special_ids(self) -> SpecialIds:
        """Return what the tokenizer adds to a text by default, and all other special tokens."""
        every = sorted(set(self._tokenizer.all_special_ids))
        plain = [one for one in tokens_by_id(self._tokenizer) if one not in every]
        texts = (self._tokenizer.decode([one]) for one in plain)
        encoded = (self._tokenizer(text, return_special_tokens_mask=True) for text in texts)
        # The text of a token may be nothing by itself, as a lone space is in some vocabularies.
        found = next(one for one in encoded if 0 in one["special_tokens_mask"])
        ids, is_added = found["input_ids"], found["special_tokens_mask"]
        num_before, num_after = is_added.index(0), is_added[::-1].index(0)
        return SpecialIds(
            before=tuple(ids[:num_before]),
            after=tuple(ids[len(ids) - num_after :]),
            every=tuple(every),
            mask=self._tokenizer.mask_token_id,
        )

    def encode_words(
        self, text: str, most_tokens: int | None
    ) -> tuple[list[int], list[tuple[int, int, int]]]:
        """Return the ids of a text, cut if it is too long, and its words that are one token each.

        A word is the place of its token, and where it begins and ends in the text.

        Raises:
            TeacherError: the tokenizer cannot say where a token stands in a text.
        """
        if not self._tokenizer.is_fast:
            raise TeacherError(
                "the teacher's tokenizer",
                expected="a fast one, which says where in a text each token stands",
                found=type(self._tokenizer).__name__,
                next_step="Save a fast tokenizer with the model.",
            )
        cut = {} if most_tokens is None else {"truncation": True, "max_length": most_tokens}
        encoded = self._tokenizer(text, return_offsets_mapping=True, **cut)
        words = encoded.word_ids()
        counts = Counter(words)
        places = [place for place, word in enumerate(words) if counts[word] == 1]
        found = []
        for place in places:
            start, stop = encoded["offset_mapping"][place]
            start += len(text[start:stop]) - len(text[start:stop].lstrip())
            if words[place] is not None and text[start:stop].isalpha():
                found.append((place, start, stop))
        return list(encoded["input_ids"]), found

    def encode_conversation(
        self, conversation: Conversation, where: str
    ) -> tuple[list[int], list[bool] | None]:
        """Return the ids of a conversation, and which are the assistant's; None for no matter."""
        return encode_conversation(self._tokenizer, conversation, where)

    def encode_prompt(self, conversation: Conversation, where: str) -> list[int]:
        """Return the ids of a conversation that the assistant is to answer.

        Raises:
            CorpusError: it cannot be rendered; `where` says which it is.
        """
        return encode_prompt(self._tokenizer, conversation, where)

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Return the text of each list of ids, without special tokens."""
        texts: list[str] = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
        return texts

    def unused_parts(self, conversation: Conversation) -> tuple[str, ...]:
        """Return names of the parts of a conversation that the chat template does not write."""
        return self._unused.of(conversation)

    @cached_property
    def _unused(self) -> UnusedParts:
        return UnusedParts(self._tokenizer)

    def describe_chat(self) -> dict[str, Any]:
        """Return the hash of the tokenizer's chat template."""
        template = json.dumps(self._tokenizer.chat_template, sort_keys=True)
        return {"chat_template_sha256": hashlib.sha256(template.encode()).hexdigest()}

    def describe(self) -> dict[str, Any]:
        """Return the hash of the tokenizer's content, and its size."""
        return describe_tokenizer(self._tokenizer)

    @no_collections()
    def vocabulary(self) -> Vocabulary:
        """Return every token, with what it adds within a text.

        That is the text of the token twice, without the text of the token once: decoders drop the
        space before a text's first word, and write the rest of a word unlike its beginning.
        """
        tokens = tokens_by_id(self._tokenizer)
        once, twice = (
            decode_batch(self._tokenizer, [[token_id] * times for token_id in tokens])
            for times in (1, 2)
        )
        decoder = getattr(getattr(self._tokenizer, "backend_tokenizer", None), "decoder", None)
        is_byte_level = decoder is not None and b"ByteLevel" in decoder.__getstate__()
        alphabet = _BYTES if is_byte_level else {}
        texts = zip(tokens.values(), once, twice, strict=True)
        return Vocabulary(
            ids_N=np.array(list(tokens), np.int32),
            tokens=tuple(tokens.values()),
            utf8=tuple(_utf8(token, first, both, alphabet) for token, first, both in texts),
        )


def decode_batch(tokenizer: PreTrainedTokenizerBase, ids: list[list[int]]) -> list[str]:
    """Return the text of each list of ids, as the tokenizer's `batch_decode` makes it.

    A tokenizer that decodes as transformers' own do has its backend do all at once, which takes
    half the time.
    """
    kind, own = type(tokenizer), PreTrainedTokenizerFast
    methods = ("batch_decode", "decode", "_decode")
    if all(getattr(kind, name, None) is getattr(own, name) for name in methods):
        texts: list[str] = tokenizer.backend_tokenizer.decode_batch(ids, skip_special_tokens=False)
        return texts
    decoded: list[str] = tokenizer.batch_decode(
        ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return decoded


_BYTES = {character: byte for byte, character in bytes_to_unicode().items()}
"""What byte each character stands for in tokens of byte-level tokenizers."""


def _utf8(token: str, once: str, twice: str, alphabet: Mapping[str, int]) -> bytes | None:
    """Return what a token adds within a text; None when its decoder does not tell.

    Args:
        token: as it is spelled.
        once: what the decoder makes of it alone.
        twice: what it makes of two of them.
        alphabet: which byte a character of a token stands for, if the tokenizer has such a one.
    """
    if "\ufffd" not in once:
        return twice.removeprefix(once).encode() if twice.startswith(once) else None
    # A part of a character has no text.
    if all(character in alphabet for character in token):
        return bytes(alphabet[character] for character in token)
    if found := re.fullmatch("<0x([0-9A-F]{2})>", token):
        return bytes.fromhex(found[1])
    return None
