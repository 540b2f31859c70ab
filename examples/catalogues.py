"""Pairs of an English text and its translation, from catalogues of gettext, which Debian has."""

from __future__ import annotations

import gettext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_FEWEST_WORDS, _MOST_WORDS = 3, 7
_CONTEXT_END = "\x04"
"""What stands between a message and what tells it from others of the same text."""
_MARKS = "\n\t<_&"
"""Lines, markup and keys of menus: no text has any of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A text in two languages."""

    source: str
    target: str


def read_pairs(directory: Path, seed: int = 0) -> list[Pair]:
    """Return the pairs of all catalogues of a language in random order.

    A source stands there once, whatever its case, digits and punctuation, so that a part of the
    pairs has no source of another part. A catalogue that is not in its own charset is left out.

    Args:
        directory: with the catalogues, as /usr/share/locale/de/LC_MESSAGES.
        seed: of the order.
    """
    found: dict[str, Pair] = {}
    for path in sorted(directory.glob("*.mo")):
        for source, target in _messages(path).items():
            letters = "".join(letter for letter in source.casefold() if letter.isalpha())
            if _is_text(source) and _is_text(target) and source != target:
                found.setdefault(letters, Pair(source=source, target=target))
    pairs = list(found.values())
    if not pairs:
        raise SystemExit(f"{directory}: expected catalogues *.mo with texts; found none.")
    return [pairs[place] for place in np.random.default_rng(seed).permutation(len(pairs))]


def _messages(path: Path) -> dict[str, str]:
    """Return the messages of a catalogue, of those with a plural the singular."""
    with path.open("rb") as file:
        try:
            catalogue: Any = gettext.GNUTranslations(file)
        except UnicodeDecodeError:
            print(f"Left out: {path}, which is not in the charset that it states.")
            return {}
    messages: dict[str, str] = {}
    for key, target in catalogue._catalog.items():
        source = key[0] if isinstance(key, tuple) else key
        messages.setdefault(source.rpartition(_CONTEXT_END)[2], target)
    return messages


def _is_text(text: str) -> bool:
    is_plain = not any(mark in text for mark in _MARKS)
    return is_plain and _FEWEST_WORDS <= len(text.split()) <= _MOST_WORDS
