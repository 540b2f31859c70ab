"""The teacher's predictions in one window, in the form people look at: candidates by likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from softtargets.report.facts import Facts, class_logprobs, drawn_at, facts_of, grid_of
from softtargets.targets import UNKNOWN_LABEL, Float32, Float64, Int32, TargetSchema
from softtargets.window import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An id, or a class, that the teacher holds for possible."""

    token_id: int
    logit: float | None
    """None where it is not stored."""
    logprobs: tuple[float | None, ...]
    """In nats, one for each temperature of `Predictions.temperatures`; None where unknown."""
    num_draws: int
    """How often it was drawn; 0 of an exact entry."""
    is_estimate: bool
    """Whether the log-probabilities are those of the frequency it was drawn with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What came, or the class that is right; None where the store does not tell."""

    token_id: int
    rank: int | None
    """How many are likelier."""
    logprobs: tuple[float | None, ...]


class Predictions:
    """The predictions of a window's T targets.

    Args:
        window: the window.
        schema: of the store's targets.
    """

    def __init__(self, window: Window, schema: TargetSchema) -> None:
        self.window = window
        self.schema = schema
        self.temperatures = grid_of(schema)
        self._targets = window.targets
        self.facts: Facts = facts_of(window, schema, self._targets)
        self._entries = self._make_entries()
        self._draws = self._make_draws()
        samples = self._targets.samples
        self._draw_ends_T = np.cumsum([] if samples is None else samples.num_samples_T)

    def __len__(self) -> int:
        return len(self.window.mask_T)

    @property
    def target_of_token_L(self) -> Int32:
        """Return for every token which target is about it; -1 where none is."""
        target_L = np.full(len(self.window), -1, np.int32)
        convention = self.schema.convention
        if not convention.is_of_windows:
            about_T = self.window.target_positions_T + convention.shift
            target_L[about_T] = np.arange(len(self))
        return target_L

    @property
    def has_choices(self) -> bool:
        """Return whether there is anything beside hidden states."""
        return bool(self.schema.head or self.schema.samples or self.schema.num_classes)

    def candidates(self, target: int) -> list[Candidate]:
        """Return what is kept exactly, the likeliest first; without a head, what was drawn."""
        if self._entries is None:
            drawn = self.drawn(target)
            return sorted(drawn, key=lambda one: (-_order(one), one.token_id))
        ids_TK, logits_TK, logprobs_GTK = self._entries
        return [
            Candidate(
                token_id=int(ids_TK[target, entry]),
                logit=float(logits_TK[target, entry]),
                logprobs=tuple(float(one[target, entry]) for one in logprobs_GTK),
                num_draws=0,
                is_estimate=False,
            )
            for entry in np.flatnonzero(np.isfinite(logits_TK[target])).tolist()
        ]

    def drawn(self, target: int) -> list[Candidate]:
        """Return the ids drawn at a target, the most often drawn first."""
        samples = self._targets.samples
        if samples is None:
            return []
        stop = int(self._draw_ends_T[target])
        places = range(stop - int(samples.num_samples_T[target]), stop)
        candidates = [
            Candidate(
                token_id=int(samples.ids_S[place]),
                logit=None if samples.logits_S is None else float(samples.logits_S[place]),
                logprobs=tuple(None if one is None else float(one[place]) for one in self._draws),
                num_draws=int(samples.counts_S[place]),
                is_estimate=samples.logits_S is None,
            )
            for place in places
        ]
        return sorted(candidates, key=lambda one: (-one.num_draws, one.token_id))

    def tail_mass(self, target: int) -> tuple[float, ...]:
        """Return the probability outside the head at each temperature; empty without one."""
        tail_TG = self.facts.tail_mass_TG
        return () if tail_TG is None else tuple(tail_TG[target].tolist())

    def entropy(self, target: int) -> tuple[float, ...]:
        """Return the entropy at each temperature, as `entropy_kind` says; empty if unknown."""
        entropy_TG = self.facts.entropy_TG
        return () if entropy_TG is None else tuple(entropy_TG[target].tolist())

    def label(self, target: int) -> Label | None:
        """Return the label of a target; None where there is none."""
        facts = self.facts
        if facts.label_ids_T is None or facts.label_ids_T[target] == UNKNOWN_LABEL:
            return None
        unknown: tuple[float | None, ...] = (None,) * len(self.temperatures)
        return Label(
            token_id=int(facts.label_ids_T[target]),
            rank=None if facts.label_rank_T is None else int(facts.label_rank_T[target]),
            logprobs=unknown
            if facts.label_logprob_TG is None
            else tuple(facts.label_logprob_TG[target].tolist()),
        )

    def _make_entries(self) -> tuple[Int32, Float32, list[Float32 | Float64]] | None:
        targets = self._targets
        if targets.class_logits_TC is not None:
            logits_TC = targets.class_logits_TC
            order_TC = np.argsort(-logits_TC, axis=1, kind="stable").astype(np.int32)
            sorted_TC = np.take_along_axis(logits_TC, order_TC, axis=1)
            return (
                order_TC,
                sorted_TC,
                [class_logprobs(sorted_TC, self.schema) for _ in self.temperatures],
            )
        if self.schema.head is None:
            return None
        return (
            targets.ids_TK,
            targets.logits_TK,
            [targets.logprobs_TK(one) for one in self.temperatures],
        )

    def _make_draws(self) -> list[Float64 | None]:
        """Return the log-probability [S] of every draw at each temperature, or of its weight."""
        logprobs_GS: list[Float64 | None] = []
        for temperature in self.temperatures:
            drawn = drawn_at(self._targets, self.schema, temperature)
            if drawn is None:
                logprobs_GS.append(None)
            else:
                known = drawn.logprob_S
                logprobs_GS.append(np.log(drawn.weight_S) if known is None else known)
        return logprobs_GS


def _order(candidate: Candidate) -> float:
    """Return what candidates are sorted by: the logit, or how often it was drawn."""
    return candidate.num_draws if candidate.logit is None else candidate.logit


def probability(logprob: float | None) -> float | None:
    """Return exp of a log-probability; None of None."""
    return None if logprob is None else math.exp(logprob)
