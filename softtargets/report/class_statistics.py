"""How the teacher's answers stand to the labels, class by class, and where it is least sure.

Shapes: T targets of a window, C classes.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from softtargets.report.facts import class_entropies, class_logprobs, facts_of
from softtargets.targets import Bool, Float32, TargetSchema
from softtargets.window import Window

MOST_UNSURE = 10
"""Of so many targets it is shown that the teacher is least sure of them."""


@dataclass(frozen=True, slots=True, order=True)
class Unsure:
    """A target and how unsure the teacher is of it."""

    entropy: float
    """In nats; of a score, how far it is from the label."""
    window: Window = field(compare=False)
    target: int = field(compare=False)
    answer: int = field(compare=False)
    """The likeliest class, or label."""
    probability: float | None = field(compare=False)
    label: int | None = field(compare=False)
    """None where it is not known, or not one class."""


@dataclass(slots=True, kw_only=True)
class ClassStatistics:
    """What is counted of class logits, over targets that are trained on."""

    schema: TargetSchema
    confusions: Counter[tuple[int, int]] = field(default_factory=Counter)
    """How often a label, the first, met an answer of the teacher, the second."""
    answers: Counter[tuple[int, bool, bool]] = field(default_factory=Counter)
    """Of labels that do not exclude each other: how often each was right, and was answered."""
    num_scored: int = 0
    squared_error: float = 0.0
    """Sum over `num_scored` labels of scores."""
    unsure: list[Unsure] = field(default_factory=list)
    """A heap whose smallest is the first."""

    def add(self, window: Window) -> None:
        """Count a window's targets."""
        logits_TC = window.targets.class_logits_TC
        assert logits_TC is not None
        facts = facts_of(window, self.schema)
        known_T = window.mask_T
        if facts.is_labelled_T is not None:
            known_T = known_T & facts.is_labelled_T
        if facts.label_ids_T is not None:
            pairs = zip(facts.label_ids_T[known_T], logits_TC[known_T].argmax(axis=1), strict=True)
            self.confusions.update((int(label), int(answer)) for label, answer in pairs)
        if window.label_values_F is not None:
            self._add_values(window.label_values_F.reshape(logits_TC.shape), logits_TC, known_T)
        self._add_unsure(window, logits_TC, known_T)

    def _add_values(self, values_TC: Float32, logits_TC: Float32, known_T: Bool) -> None:
        if self.schema.problem == "regression":
            apart_TC = logits_TC[known_T].astype(np.float64) - values_TC[known_T]
            self.squared_error += float((apart_TC**2).sum())
            self.num_scored += apart_TC.size
            return
        for right_C, answer_C in zip(values_TC[known_T] > 0, logits_TC[known_T] > 0, strict=True):
            told = zip(range(len(right_C)), right_C.tolist(), answer_C.tolist(), strict=True)
            self.answers.update(told)

    def _add_unsure(self, window: Window, logits_TC: Float32, known_T: Bool) -> None:
        if self.schema.problem == "regression":
            return self._add_far(window, logits_TC, known_T)
        entropies_T = class_entropies(logits_TC, self.schema)
        logprobs_TC = class_logprobs(logits_TC, self.schema)
        for target in np.flatnonzero(window.mask_T).tolist():
            answer = int(logits_TC[target].argmax())
            has_label = window.label_ids_T is not None and known_T[target]
            self._push(
                Unsure(
                    entropy=float(entropies_T[target]),
                    window=window,
                    target=target,
                    answer=answer,
                    probability=float(np.exp(logprobs_TC[target, answer])),
                    label=int(window.labels_T[target]) if has_label else None,
                )
            )
        return None

    def _add_far(self, window: Window, logits_TC: Float32, known_T: Bool) -> None:
        """Add scores that are far from their labels."""
        if window.label_values_F is None:
            return
        apart_TC = np.abs(logits_TC - window.label_values_F.reshape(logits_TC.shape))
        for target in np.flatnonzero(known_T).tolist():
            farthest = int(apart_TC[target].argmax())
            self._push(
                Unsure(
                    entropy=float(apart_TC[target, farthest]),
                    window=window,
                    target=target,
                    answer=farthest,
                    probability=None,
                    label=None,
                )
            )

    def _push(self, found: Unsure) -> None:
        if len(self.unsure) < MOST_UNSURE:
            heapq.heappush(self.unsure, found)
        else:
            heapq.heappushpop(self.unsure, found)
