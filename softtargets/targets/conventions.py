"""Position conventions: how the targets of a window stand to its tokens.

Everything that shifts labels, counts targets or asks what one is about takes it from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from softtargets.targets.arrays import Int32

Predicts = Literal["next_token", "token", "window"]
AnyCount = TypeVar("AnyCount", int, np.ndarray)


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """What the target at position t is about."""

    name: Predicts
    """What manifests call it."""
    words: str
    """The same for people."""
    said: str
    """What people who look at a window are told of it."""
    shift: int = 0
    """The target at position t is about token t + shift."""
    is_of_windows: bool = False
    """Whether there is one target, about the whole window, instead of one at each position."""
    labels_are_inputs: bool = False
    """Whether the token that a target is about is its label; else labels are stored, if known."""

    def num_targets(self, num_tokens: AnyCount, num_windows: AnyCount) -> AnyCount:
        """Return how many targets some windows have together, if every position has one."""
        return num_windows if self.is_of_windows else num_tokens - self.shift * num_windows


NEXT_TOKEN = Convention(
    name="next_token",
    words="the target at position t is its distribution of token t + 1, given tokens 0..t of the "
    "same document",
    said="what is said of a token the teacher said before it came",
    shift=1,
    labels_are_inputs=True,
)
TOKEN = Convention(
    name="token",
    words="each target is about the token at its own position",
    said="what is said of a token the teacher said of what belongs in its place",
)
WINDOW = Convention(
    name="window",
    words="there is one target, about the whole window",
    said="what the teacher said is about all of it",
    is_of_windows=True,
)
CONVENTIONS: dict[Predicts, Convention] = {one.name: one for one in (NEXT_TOKEN, TOKEN, WINDOW)}
DEFAULT_CONVENTION = NEXT_TOKEN
"""That of stores which do not say, and of windows before they have targets."""


def input_labels(input_ids_L: Int32, positions_T: Int32) -> Int32:
    """Return the labels of targets whose labels are input ids, [T]."""
    return input_ids_L[positions_T + NEXT_TOKEN.shift]
