"""A server's answers about one short text, by which it is checked at the start and later on.

What is checked needs no other model:

- the server makes the same ids of the text as the tokenizer here;
- its log-probabilities are finite, and those of a list sum to no more than 1;
- a token that is changed changes the lists after it, and none before it, so that each list is that
  of its position;
- its answers about the same text are about the same, alone and beside others. How far they are
  apart is its noise. A later answer that is further away is another model's.

Shapes: R rows of a prompt, K entries of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from softtargets.capture.servers.prompt_lists import ROUNDING, PromptLists, WrongAnswerError
from softtargets.targets import Float32

TEXT = (
    "The café opened at 9:45; \u201cnobody\u201d was there, so we waited.\n"
    "def mean(values):\n    return sum(values) / len(values)\n\u4e16\u754c, 3.14159 and \u00fcber."
)
"""Words, code and other scripts, of which two tokenizers hardly make the same ids."""
NUM_IDS = 48
NUM_ENTRIES = 5
_TOGETHER = 4
"""Answers about the text that are asked for at the same time."""
_LEAST_BOUND = 0.02
"""Nats by which labels' log-probabilities may differ on average, however small the noise is."""
_NOISES = 4
"""As many times the noise may a later answer be away."""
_MOST_NOISE = 0.25
"""Nats. bfloat16 in other batches gave 0.02."""
_PLACES = 3
"""Where a token is changed."""
_CHANGE = 4
"""A changed token changes the list after it more than that many times as much as those before."""

AskTogether = Callable[[Sequence[Sequence[int]]], list[PromptLists]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a server answered about the text."""

    ids: tuple[int, ...]
    label_logprobs_R: Float32
    noise: float
    """Nats by which its answers differ, on average over the text."""

    @classmethod
    def of(cls, ask: AskTogether, own_ids: Sequence[int], vocab_size: int) -> Calibration:
        """Ask a server about the text, and check its answers.

        Args:
            ask: returns the lists of prompts that are asked for at the same time.
            own_ids: of the text, by the tokenizer here.
            vocab_size: of the model.

        Raises:
            WrongAnswerError: they are those of no such teacher.
        """
        ids = tuple(own_ids[:NUM_IDS])
        (first,) = ask([ids])
        _check_numbers(first)
        together = ask([ids] * _TOGETHER)
        noise = max(_distance(first.label_logprobs_R, one.label_logprobs_R) for one in together)
        if not noise <= _MOST_NOISE:
            raise WrongAnswerError(
                f"answers to the same text that differ by at most {_MOST_NOISE} nat on average",
                f"answers that differ by {noise:.3g} nat",
            )
        places = [len(ids) * part // (_PLACES + 1) for part in range(1, _PLACES + 1)]
        changed = [
            (*ids[:place], (ids[place] + vocab_size // 2) % vocab_size, *ids[place + 1 :])
            for place in places
        ]
        _check_positions(first, dict(zip(places, ask(changed), strict=True)))
        return cls(ids=ids, label_logprobs_R=first.label_logprobs_R, noise=noise)

    @property
    def bound(self) -> float:
        """Return by how many nats a later answer may differ on average."""
        return max(_LEAST_BOUND, _NOISES * self.noise)

    def check(self, later: PromptLists) -> None:
        """Check that a later answer is that of the same model.

        Raises:
            WrongAnswerError: it is not.
        """
        found = _distance(self.label_logprobs_R, later.label_logprobs_R)
        if not found <= self.bound:
            raise WrongAnswerError(
                f"the answer to the calibration text that it gave at the start, within "
                f"{self.bound:.3g} nat on average",
                f"one that differs by {found:.3g} nat",
            )


def check_text(own_ids: Sequence[int], found: Sequence[int | None]) -> None:
    """Check that a server made the same ids of the text; None is one that it does not tell.

    Raises:
        WrongAnswerError: it did not.
    """
    pairs = zip(own_ids, found, strict=False)
    wrong = [(own, its) for own, its in pairs if its not in (own, None)]
    if wrong or len(own_ids) != len(found):
        at = f"{wrong[0][1]} in place of {wrong[0][0]}" if wrong else "as many are equal"
        raise WrongAnswerError(
            f"the {len(own_ids)} ids that the tokenizer makes of a text",
            f"{len(found)} ids of another tokenizer ({at})",
        )


def _check_numbers(lists: PromptLists) -> None:
    if np.isnan(lists.logprobs_RK).any() or (lists.logprobs_RK == np.inf).any():
        raise WrongAnswerError("finite log-probabilities", "NaN or infinity")
    mass_R = np.exp(lists.logprobs_RK.astype(np.float64)).sum(axis=1)
    if not ((mass_R > 0) & (mass_R < 1 + ROUNDING)).all():
        raise WrongAnswerError(
            "log-probabilities, of which those of a list are of 1 at most together",
            f"numbers whose exponentials sum to {_far(mass_R):.4g}, as logits' do",
        )
    is_odd_R = ~np.isfinite(lists.label_logprobs_R) | (lists.label_logprobs_R > ROUNDING)
    if is_odd_R.any():
        raise WrongAnswerError(
            "finite log-probabilities of the tokens of a common text",
            str(lists.label_logprobs_R[is_odd_R][0]),
        )


def _far(mass_R: np.ndarray) -> float:
    """Return the mass that is the least possible one."""
    return float(mass_R.max() if mass_R.max() >= 1 + ROUNDING else mass_R.min())


def _check_positions(first: PromptLists, others: Mapping[int, PromptLists]) -> None:
    """Check that a changed token changes the list that is of its row, and none before.

    Args:
        first: lists of the text.
        others: those of the text with another token at a place, by the place.
    """
    changes = []
    for place, other in others.items():
        before = max(_moved(first, other, row) for row in range(place))
        changes.append((_moved(first, other, place), before))
    after, before = max(changes)
    if not after > _CHANGE * before:
        raise WrongAnswerError(
            "lists at their own positions, which a later token does not change",
            f"a token whose change moves probabilities of {before:.3g} before it, and of "
            f"{after:.3g} after it",
        )


def _moved(one: PromptLists, other: PromptLists, row: int) -> float:
    """Return how much probability of the listed ids is elsewhere in another list."""
    lists = [
        dict(zip(lists.ids_RK[row].tolist(), np.exp(lists.logprobs_RK[row]).tolist(), strict=True))
        for lists in (one, other)
    ]
    own, its = lists
    return float(sum(abs(own.get(id_, 0.0) - its.get(id_, 0.0)) for id_ in own | its))


def _distance(one_R: Float32, other_R: Float32) -> float:
    """Return by how much log-probabilities of labels differ on average; infinity if by shape."""
    if one_R.shape != other_R.shape:
        return float("inf")
    return float(np.abs(one_R.astype(np.float64) - other_R).mean())
