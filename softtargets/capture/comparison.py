"""How far stored targets are from a live teacher, beside what the teacher itself varies by.

Shapes: T positions that are compared at once, V vocabulary, K kept entries, S draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from softtargets.capture.draw_deviation import DrawDeviation, draw_deviation
from softtargets.targets import Bool, Float64, Samples, SoftTargets, TargetSchema

ROUNDING = 1e-4
"""How far float32 sums of a whole vocabulary may differ, in nats."""
_MOST_DEVIATIONS = 5
"""How many standard errors the draws' mean log-probability may be off: once in two million."""
_LOWEST = -1e4
"""Stands for the log of nothing, which nothing is multiplied with."""
_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """How far two distributions are apart, over all positions, in nats."""

    largest: float
    """Mean over positions of the largest difference between log-probabilities of kept entries; or,
    without a head, of the difference between logsumexps."""
    kl: float
    """Mean KL over the kept entries and the tail as one bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """What was found at one temperature."""

    temperature: float
    stored: Distance
    """The store against the live teacher."""
    live: Distance
    """The live teacher against itself in batches of other windows."""
    bound: float
    """What the stored form may add to `live.largest`: a step of the logits / T, and half a step of
    the tail masses."""
    truncation_kl: float | None
    """KL from the full distribution to the exact head with the tail spread evenly; None without a
    head."""
    draws_deviation: float | None
    """By how many standard errors the mean live log-probability of what was drawn is off its
    expectation; None at other temperatures than the draws', and without draws."""

    @property
    def holds(self) -> bool:
        """Return whether the store differs by no more than the teacher and the stored form do."""
        return (
            self.stored.largest <= self.live.largest + self.bound
            and abs(self.draws_deviation or 0) <= _MOST_DEVIATIONS
        )


class Comparison:
    """Targets beside two live passes at one temperature, summed over positions."""

    def __init__(self, schema: TargetSchema, temperature: float) -> None:
        samples = schema.samples
        self._schema = schema
        self._temperature = temperature
        self._num_draws = 0
        if samples is not None and samples.temperature == temperature:
            self._num_draws = samples.num_draws
        self._num_positions = 0
        self._stored, self._live = np.zeros(2), np.zeros(2)
        self._truncation = 0.0
        self._draws = DrawDeviation()

    def add(self, targets: SoftTargets, logits_TV: torch.Tensor, other_TV: torch.Tensor) -> None:
        """Compare some positions.

        Args:
            targets: theirs, see `rows_of`.
            logits_TV: the live teacher's, of windows read alone; float64.
            other_TV: its logits of windows read together.
        """
        temperature = self._temperature
        ids_TK = torch.from_numpy(targets.ids_TK.astype(np.int64))
        kept_TK = np.isfinite(targets.logits_TK)
        logprobs_TV = (logits_TV / temperature).log_softmax(dim=1)
        rest_TV = _rest(logprobs_TV, ids_TK, kept_TK)
        live = _Buckets.of(logprobs_TV, rest_TV, ids_TK, kept_TK)
        others_TV = (other_TV / temperature).log_softmax(dim=1)
        other_rest_TV = _rest(others_TV, ids_TK, kept_TK)
        other = _Buckets.of(others_TV, other_rest_TV, ids_TK, kept_TK)
        logprobs_TV = logprobs_TV.clamp(min=_LOWEST)
        stored = _Buckets(
            entries_TK=targets.logprobs_TK(temperature).astype(np.float64),
            rest_T=targets.tail_logmass_T(temperature).astype(np.float64),
            kept_TK=kept_TK,
        )
        stored_T, live_T = live.largest_T(stored), live.largest_T(other)
        if targets.logsumexp_TG is not None:
            own_T, other_T = (
                (one / temperature).logsumexp(dim=1).numpy() for one in (logits_TV, other_TV)
            )
            stored_T = np.abs(targets.logsumexp_T(temperature) - own_T)
            live_T = np.abs(other_T - own_T)
        self._num_positions += len(targets)
        self._stored += stored_T.sum(), live.kl_T(stored).sum()
        self._live += live_T.sum(), live.kl_T(other).sum()
        self._truncation += _truncation_T(logprobs_TV, rest_TV, live, targets).sum()
        if self._num_draws:
            self._add_draws(targets, logprobs_TV, rest_TV, other_rest_TV)

    def _add_draws(
        self,
        targets: SoftTargets,
        logprobs_TV: torch.Tensor,
        rest_TV: torch.Tensor,
        other_rest_TV: torch.Tensor,
    ) -> None:
        """Compare what was drawn with what can be drawn; both rests become expected numbers."""
        schema = self._schema.samples
        assert schema is not None
        assert targets.samples is not None
        has_draws_T1 = torch.from_numpy(targets.samples.num_samples_T > 0)[:, None]

        def expected_TV(rest_TV: torch.Tensor) -> torch.Tensor:
            if schema.design != "threshold":
                # As many draws as there are, from whatever can be drawn.
                rest_TV /= rest_TV.sum(dim=1, keepdim=True).clamp(min=_TINY)
                rest_TV.mul_(has_draws_T1)
            return rest_TV.mul_(self._num_draws)

        self._draws += draw_deviation(
            targets.samples,
            expected_TV(rest_TV),
            expected_TV(other_rest_TV),
            logprobs_TV,
            self._num_draws,
            is_independent=schema.design == "independent",
        )

    def join(self, other: Comparison) -> None:
        """Add what was found of other positions."""
        self._num_positions += other._num_positions
        # Arrays that came from other processes may be read-only.
        self._stored = self._stored + other._stored
        self._live = self._live + other._live
        self._truncation += other._truncation
        self._draws += other._draws

    def fidelity(self) -> Fidelity:
        """Return what was found."""
        head = self._schema.head
        step = 0.0 if head is None else head.step or 0.0
        # log(1 - tail) is off by half a step of the tail's log-odds at most.
        tail_error = (self._schema.grid_step or 0.0) / 2
        return Fidelity(
            temperature=self._temperature,
            stored=self._mean(self._stored),
            live=self._mean(self._live),
            bound=step / self._temperature + tail_error + ROUNDING,
            truncation_kl=None if head is None else float(self._truncation) / self._num_positions,
            draws_deviation=self._draws.in_errors(ROUNDING) if self._num_draws else None,
        )

    def _mean(self, sums: Float64) -> Distance:
        largest, kl = (sums / self._num_positions).tolist()
        return Distance(largest=largest, kl=kl)


def rows_of(targets: SoftTargets, rows: slice) -> SoftTargets:
    """Return what some positions are compared by; label, classes and features are left out."""
    samples = targets.samples
    if samples is not None:
        ends_T = np.concatenate([[0], np.cumsum(samples.num_samples_T)])
        drawn = slice(ends_T[rows.start], ends_T[rows.stop])
        samples = Samples(
            num_samples_T=samples.num_samples_T[rows],
            ids_S=samples.ids_S[drawn],
            counts_S=samples.counts_S[drawn],
        )
    logsumexp_TG = targets.logsumexp_TG
    return SoftTargets(
        ids_TK=targets.ids_TK[rows],
        logits_TK=targets.logits_TK[rows],
        num_entries_T=targets.num_entries_T[rows],
        tail_mass_TG=targets.tail_mass_TG[rows],
        temperatures=targets.temperatures,
        logsumexp_TG=None if logsumexp_TG is None else logsumexp_TG[rows],
        samples=samples,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Buckets:
    """Log-probabilities of the kept entries, and of the rest together."""

    entries_TK: Float64
    rest_T: Float64
    kept_TK: Bool

    @classmethod
    def of(
        cls,
        logprobs_TV: torch.Tensor,
        rest_TV: torch.Tensor,
        ids_TK: torch.Tensor,
        kept_TK: Bool,
    ) -> _Buckets:
        """Sort a whole distribution into the buckets of kept entries; see `_rest`."""
        is_none_TK = ~torch.from_numpy(kept_TK)
        entries_TK = logprobs_TV.gather(1, ids_TK).masked_fill(is_none_TK, -torch.inf)
        rest_T = rest_TV.sum(dim=1).log()
        return cls(entries_TK=entries_TK.numpy(), rest_T=rest_T.numpy(), kept_TK=kept_TK)

    def largest_T(self, other: _Buckets) -> Float64:
        """Return the largest difference between entries."""
        with np.errstate(invalid="ignore"):
            apart_TK = np.abs(self.entries_TK - other.entries_TK)
        return np.asarray(np.where(self.kept_TK, apart_TK, 0).max(axis=1, initial=0))

    def kl_T(self, other: _Buckets) -> Float64:
        """Return KL(self || other)."""
        with np.errstate(invalid="ignore"):
            terms_TK = np.exp(self.entries_TK) * (self.entries_TK - other.entries_TK)
            has_tail_T = np.isfinite(self.rest_T) & np.isfinite(other.rest_T)
            tail_T = np.where(has_tail_T, np.exp(self.rest_T) * (self.rest_T - other.rest_T), 0)
        return np.asarray(np.where(self.kept_TK, terms_TK, 0).sum(axis=1) + tail_T)


def _rest(logprobs_TV: torch.Tensor, ids_TK: torch.Tensor, kept_TK: Bool) -> torch.Tensor:
    """Return probabilities, with 0 at the kept entries."""
    rest_TV = logprobs_TV.exp()
    for row, (ids_K, kept_K) in enumerate(zip(ids_TK, kept_TK, strict=True)):
        rest_TV[row, ids_K[torch.from_numpy(kept_K)]] = 0
    return rest_TV


def _truncation_T(
    logprobs_TV: torch.Tensor, rest_TV: torch.Tensor, live: _Buckets, targets: SoftTargets
) -> Float64:
    """Return KL from the full distribution to the entries with the rest spread evenly."""
    terms_T = (rest_TV * logprobs_TV).sum(dim=1).numpy()
    num_rest_T = logprobs_TV.shape[1] - targets.num_entries_T
    tail_T = np.exp(live.rest_T)
    spread_T = np.where(tail_T > 0, live.rest_T - np.log(np.maximum(num_rest_T, 1)), 0)
    return np.asarray(terms_T - tail_T * spread_T)
