"""What a tokenizer is, by its content: for the identity of a store, and for students to compare."""

from __future__ import annotations

import gc
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from softtargets.errors import InputError
from softtargets.targets import Int32


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The N tokens of a tokenizer. Ids may be missing: a teacher's output is often padded."""

    ids_N: Int32
    """Rising."""
    tokens: tuple[str, ...] = field(repr=False)
    """As the tokenizer spells them."""
    utf8: tuple[bytes | None, ...] = field(repr=False)
    """What each adds within a text, in UTF-8; it may be a part of a character. None where the
    tokenizer does not say."""

    def __len__(self) -> int:
        return len(self.tokens)

    def token(self, token_id: int) -> str | None:
        """Return a token as the tokenizer spells it; None for an id that has none."""
        place = self._place(token_id)
        return None if place is None else self.tokens[place]

    def utf8_of(self, token_id: int) -> bytes | None:
        """Return what a token adds within a text; None for an id without one that is known."""
        place = self._place(token_id)
        return None if place is None else self.utf8[place]

    def text(self, ids: Iterable[int]) -> str:
        """Return the text that ids stand for, with U+FFFD for what is none.

        A token whose text is not known stands there as it is spelled. Some tokenizers drop a space
        at the beginning of a whole text; here it stays.
        """
        parts = []
        for token_id in ids:
            place = self._place(token_id)
            own = None if place is None else self.utf8[place]
            spelled = "\ufffd" if place is None else self.tokens[place]
            parts.append(spelled.encode() if own is None else own)
        return b"".join(parts).decode(errors="replace")

    def _place(self, token_id: int) -> int | None:
        at = int(np.searchsorted(self.ids_N, token_id))
        return at if at < len(self.ids_N) and self.ids_N[at] == token_id else None


def tokens_by_id(tokenizer: Any) -> dict[int, str]:
    """Return every token of a tokenizer of transformers, by rising id."""
    ids = sorted(set(tokenizer.get_vocab().values()))
    return dict(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True))


def describe_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """Return the hash of the content of a tokenizer of transformers, and its size.

    Raises:
        InputError: it is none, for example the name of one.
    """
    if not hasattr(tokenizer, "get_vocab"):
        is_name = isinstance(tokenizer, str | os.PathLike)
        raise InputError(
            "tokenizer",
            expected="a tokenizer of transformers",
            found=repr(tokenizer) if is_name else type(tokenizer).__name__,
            next_step="Load it with transformers.AutoTokenizer.from_pretrained, and pass that.",
        )
    with no_collections():
        text = json.dumps(_content(tokenizer), sort_keys=True)
    return {
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "vocab_size": len(tokenizer),
    }


def _content(tokenizer: Any) -> dict[str, Any]:
    """Return what makes a tokenizer what it is."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content: dict[str, Any] = json.loads(backend.to_str())
        # State of the last call, not of the tokenizer.
        del content["truncation"], content["padding"]
        return content
    return {
        "class": type(tokenizer).__name__,
        "vocab": tokenizer.get_vocab(),
        "special_tokens": {
            name: str(token) for name, token in tokenizer.special_tokens_map.items()
        },
    }


@contextmanager
def no_collections() -> Iterator[None]:
    """Put off collections of garbage while much is made and nothing is garbage.

    A large tokenizer has half a million lists, and a collection looks at all of them each time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
