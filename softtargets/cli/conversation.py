"""A conversation as the teacher reads it, with the tokens that are targets marked."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.text import Text

from softtargets.cli.terminal import cell
from softtargets.targets import DEFAULT_CONVENTION
from softtargets.texts import shortened

if TYPE_CHECKING:
    from softtargets.tokenizer import Vocabulary
    from softtargets.window import TokenWindow

_MOST_STRETCH = 300
"""Characters that are shown of a stretch of tokens, its middle left out."""
_MOST_STRETCHES = 12
"""Stretches that are shown."""


def read_stretches(window: TokenWindow, vocabulary: Vocabulary) -> list[tuple[str, bool]]:
    """Return the first document of a window as texts in order, and whether each is trained on."""
    is_target_L = np.zeros(len(window), np.bool_)
    about_T = window.target_positions_T + DEFAULT_CONVENTION.shift
    is_target_L[about_T[window.mask_T]] = True
    length = int(window.segment_lengths_S[0])
    pairs = zip(window.input_ids_L[:length].tolist(), is_target_L[:length].tolist(), strict=True)
    return [
        (vocabulary.text(token_id for token_id, _ in group), is_target)
        for is_target, group in groupby(pairs, key=lambda pair: pair[1])
    ]


def describe_stretches(stretches: list[tuple[str, bool]]) -> list[dict[str, Any]]:
    """Return stretches as JSON."""
    return [{"text": text, "is_target": is_target} for text, is_target in stretches]


def conversation_text(stretches: list[tuple[str, bool]]) -> Text:
    """Return stretches for the terminal: a target is bold and in double brackets."""
    found = Text()
    for text, is_target in stretches[:_MOST_STRETCHES]:
        lines = shortened(text, _MOST_STRETCH).split("\n")
        marked = [f"[[{line}]]" if is_target and line else line for line in lines]
        # A line end is the template's own, and the only control character that is obeyed.
        for number, line in enumerate(marked):
            found.append("\n" if number else "")
            found.append_text(cell(line, "bold" if is_target else ""))
    if len(stretches) > _MOST_STRETCHES:
        found.append(f"\n... and {len(stretches) - _MOST_STRETCHES:,} stretches more")
    return found
