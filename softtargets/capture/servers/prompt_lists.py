"""What a server lists for the tokens of a prompt, and what all such lists promise.

Shapes: L tokens of a prompt, R = L - 1 rows of which each tells the token that follows, K entries.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from softtargets.targets import Float32, Int32

ROUNDING = 1e-3
"""By how much probabilities in float32 or less may sum to more than 1, and logits be apart."""
LEAST = -9999.0
"""What servers write for -inf, or below it."""


class WrongAnswerError(Exception):
    """An answer is none that a server of its kind gives."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(expected, found)
        self.expected = expected
        self.found = found


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLists:
    """The likeliest ids after each token of a prompt but the last, with log-probabilities."""

    ids_RK: Int32
    logprobs_RK: Float32
    label_logprobs_R: Float32
    """Of the tokens that follow."""
    label_ranks_R: Int32 | None
    """How many ids are likelier than those, or as likely; None where the server does not tell."""

    def __len__(self) -> int:
        return len(self.ids_RK)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """What a server says of its model."""

    name: str
    longest_prompt: int | None
    """In tokens, the last of which is followed by nothing."""


class Wire(Protocol):
    """How servers of one kind are asked, and what they answer."""

    kind: str
    """What the server is called."""
    path: str
    """Where it is asked."""
    tells_ranks: bool
    """Whether the rank of a label that is not listed is told."""

    @abstractmethod
    def body(self, model: str, prompt: Sequence[int] | str, k: int) -> dict[str, Any]:
        """Return the request for `k` entries after each token of a prompt, of ids or a text."""

    @abstractmethod
    def lists(self, answer: dict[str, Any], ids: Sequence[int], k: int) -> PromptLists:
        """Return the lists of an answer.

        Raises:
            WrongAnswerError: it is none to such a request.
        """

    @abstractmethod
    def ids(self, answer: dict[str, Any]) -> list[int | None]:
        """Return the ids that the server made of a text; None where it does not tell one.

        Raises:
            WrongAnswerError: it is no answer to such a request.
        """

    @abstractmethod
    def model(self, answer: dict[str, Any]) -> str | None:
        """Return the name of the model that gave an answer, if it says so."""


def check_lists(lists: PromptLists, vocab_size: int) -> None:
    """Check what lists of any server promise; their sums are checked where they are selected.

    Raises:
        WrongAnswerError: a promise is broken.
    """
    ids_RK = np.sort(lists.ids_RK, axis=1)
    if ids_RK.size and not 0 <= ids_RK[:, 0].min() <= ids_RK[:, -1].max() < vocab_size:
        found = sorted({int(one) for one in (ids_RK[:, 0].min(), ids_RK[:, -1].max())})
        raise WrongAnswerError(
            f"ids from 0 to {vocab_size - 1}, which the tokenizer's model knows", str(found)
        )
    if (np.diff(ids_RK, axis=1) == 0).any():
        raise WrongAnswerError("lists of ids that differ", "an id twice in a list")
    if lists.label_ranks_R is None:
        return
    label_R, ranks_R = lists.label_logprobs_R, lists.label_ranks_R
    is_likely_R = (ranks_R >= ids_RK.shape[1]) & (
        label_R > lists.logprobs_RK.min(axis=1, initial=np.inf) + ROUNDING
    )
    # What is no number has no rank, and is found where it is selected.
    is_number_R = ~np.isnan(label_R)
    if (is_number_R & ((ranks_R < 0) | (ranks_R >= vocab_size) | is_likely_R)).any():
        raise WrongAnswerError(
            "lists of the likeliest ids, with ranks of the tokens that follow",
            "a token that is likelier than those listed, or of no possible rank",
        )


def likelier(logprobs_NK: Float32, label_logprobs_N: Float32, label_ranks_N: Int32) -> Int32:
    """Return how many ids are likelier than labels.

    Servers count ids that are as likely as a label, too. Those above one that is listed, or as
    likely as the last of its list, are all listed.

    Args:
        logprobs_NK: of the likeliest ids.
        label_logprobs_N: of the labels.
        label_ranks_N: by the server's count.
    """
    num_above_N = (logprobs_NK > label_logprobs_N[:, None]).sum(axis=1, dtype=np.int32)
    is_within_N = num_above_N < logprobs_NK.shape[1]
    return np.where(is_within_N, num_above_N, label_ranks_N).astype(np.int32)


def numbers(values: Sequence[Any]) -> Float32:
    """Return log-probabilities as float32; null is NaN, and what servers write for -inf is that.

    Raises:
        WrongAnswerError: one is no number.
    """
    kinds = set(map(type, values)) - {float, int, type(None)}
    if kinds:
        names = ", ".join(sorted(one.__name__ for one in kinds))
        raise WrongAnswerError("log-probabilities that are numbers", names)
    return floored(np.array(values, np.float64))


def floored(logprobs: np.ndarray) -> Float32:
    """Return log-probabilities as float32, -inf where a server wrote a low number for it."""
    return np.where(logprobs <= LEAST, -np.inf, logprobs).astype(np.float32)


def whole(values: Sequence[Any], what: str) -> Int32:
    """Return whole numbers of 32 bits.

    Raises:
        WrongAnswerError: one is none.
    """
    if set(map(type, values)) - {int}:
        names = ", ".join(sorted({type(one).__name__ for one in values} - {"int"}))
        raise WrongAnswerError(f"{what} that are whole numbers", names)
    try:
        return np.array(values, np.int32)
    except OverflowError:
        raise WrongAnswerError(f"{what} of 32 bits", "a larger one") from None


def members(answer: Any, name: str, kind: type, where: str = "an answer") -> Any:
    """Return a member of a JSON object.

    Raises:
        WrongAnswerError: there is none of this type.
    """
    found = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(found, kind):
        raise WrongAnswerError(f"{where} with {name}, a {kind.__name__}", type(found).__name__)
    return found
