"""Foreign text as it may be shown: in a message, on a terminal, on a page."""

from __future__ import annotations

from softtargets.urls import without_credentials

MOST_SHOWN = 400
"""Characters of a foreign text in a message."""


def printable(text: str) -> str:
    """Return a text in which a terminal finds nothing to obey and a reader nothing hidden.

    What is no visible character and no plain space is written as Python writes it: controls of 7
    and 8 bits, line breaks, characters that turn the direction of writing, halves of surrogates.
    Emoji and letters of every script stay.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def shown(text: str) -> str:
    """Return a line as a message or a terminal may have it: printable, and without credentials."""
    return printable(without_credentials(text))


def is_utf8(text: str) -> bool:
    """Return whether a text can be stored, which one with halves of surrogate pairs can't."""
    return not any("\ud800" <= one <= "\udfff" for one in text)


def shortened(text: str, most: int = MOST_SHOWN) -> str:
    """Return a text, its middle left out if it is longer than a message should be."""
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def plural(number: int, noun: str, nouns: str = "") -> str:
    """Return a number with its noun; `nouns` is the plural if it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"
