"""Tokens as text that can be seen: spaces and line ends have marks, the rest has escapes.

What a corpus says is shown to people in a browser or a terminal. No character of it may move the
cursor, turn the direction of writing, or be there without being seen.
"""

from __future__ import annotations

import unicodedata

from softtargets.targets import TargetSchema
from softtargets.tokenizer import Vocabulary

SPACE, NEWLINE, TAB = "\u00b7", "\u21b5", "\u21e5"
"""Marks of a space, a line end and a tab."""
_MARKS = {" ": SPACE, "\n": NEWLINE, "\t": TAB}
_UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"}
"""Unicode's classes of characters that show nothing, or something else on every machine."""
_CARRIER = "\u25cc"
"""What a combining mark is shown on that has no letter of its own."""


class TokenNames:
    """What to call a token id: its text, its spelling, or its number.

    Args:
        vocabulary: of the store; None gives every token its number.
    """

    def __init__(self, vocabulary: Vocabulary | None) -> None:
        self._vocabulary = vocabulary
        self._names: dict[int, str] = {}

    def __getitem__(self, token_id: int) -> str:
        if token_id not in self._names:
            self._names[token_id] = self._name(token_id)
        return self._names[token_id]

    def label(self, label_id: int, schema: TargetSchema) -> str:
        """Return what to call a label or a candidate: a token's name, or the class."""
        if not schema.num_classes:
            return self[label_id]
        return visible(schema.class_names[label_id]) if schema.class_names else f"class {label_id}"

    def _name(self, token_id: int) -> str:
        token = None if self._vocabulary is None else self._vocabulary.token(token_id)
        if self._vocabulary is None or token is None:
            return f"#{token_id}"
        # A special token has no text of its own, or none that the tokenizer tells.
        return visible_bytes(self._vocabulary.utf8_of(token_id) or b"") or visible(token)


def visible_bytes(utf8: bytes) -> str:
    r"""Return what bytes say; those that are no whole character as \xE2."""
    # The decoder's way to keep a byte it cannot read: a lone surrogate, U+DC00 and the byte.
    parts: list[str] = []
    for character in utf8.decode("utf-8", "surrogateescape"):
        code = ord(character)
        parts.append(
            f"\\x{code - 0xDC00:02X}" if 0xDC80 <= code <= 0xDCFF else visible(character, not parts)
        )
    return "".join(parts)


def visible(text: str, is_first: bool = True) -> str:
    r"""Return a text with marks for spaces and line ends, and what cannot be seen as \u200b.

    Args:
        text: what is shown.
        is_first: whether nothing is before it that a combining mark could stand on.
    """
    parts = []
    for number, character in enumerate(text):
        if character in _MARKS:
            parts.append(_MARKS[character])
        elif unicodedata.category(character) in _UNSEEN:
            code = ord(character)
            parts.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
        elif unicodedata.combining(character) and is_first and number == 0:
            parts.append(_CARRIER + character)
        else:
            parts.append(character)
    return "".join(parts)
