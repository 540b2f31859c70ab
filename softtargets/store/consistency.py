"""What the parts of a target say about each other: numbers that are sound can contradict.

Every tolerance follows from how numbers are stored and computed:

- An entry in steps is off by at most step / 2; in float32 it is exact. Its sum with the top logit
  is rounded to float32. A label's logit, the top logit and float32 draws are exact.
- Masses are quotients of float32 sums of at most V terms that are not negative. In whatever order
  they are added, such a sum is off by at most V 2^-24 of itself; a term exp(z / T) by 2^-24 times
  its exponent, which is at most |top| / T + 104 where the term is above 0. Four times both covers
  sum, quotient and the square that serves half a temperature.
- A term below 2^-126 may be lost, so that V^2 2^-126 of the top's weight may be missing.

Weights below are exp((z - top) / T): those of the entries sum to S, and the tail's is
W = R / (1 - R) S, with R its mass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from softtargets.kinds import TargetSchema
from softtargets.packing import kept_entries
from softtargets.targets import Bool, Float32, Float64, SoftTargets
from softtargets.window import Window

Promises = Iterator[tuple[str, Bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What the identity says of how targets were made; what is not known is not checked."""

    is_tail_exact: bool = False
    """Whether tail masses are those of the whole vocabulary, before anything was rounded."""
    keeps_highest: bool = False
    """Whether no id outside the head has a logit above one in it."""

    @classmethod
    def of(cls, identity: Mapping[str, Any]) -> Origin:
        """Return what an identity says."""
        selection = identity.get("selection", {})
        is_captured = "imported" not in identity
        return cls(
            is_tail_exact=is_captured,
            keeps_highest=is_captured
            and selection.get("kind") in ("topk", "topp", "hybrid")
            and "pins" not in selection,
        )


def contradictions(window: Window, targets: SoftTargets, origin: Origin) -> Promises:
    """Yield promises, and at which positions [T] of a window they hold.

    Args:
        window: whose columns are sound, each by itself.
        targets: of the window.
        origin: how they were made.
    """
    parts = _Parts(window, targets, origin)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if parts.schema.head is not None:
            yield "a first entry with the top logit", parts.logits_TK[:, 0] == parts.top_T
            if origin.is_tail_exact:
                yield from _tail_promises(parts)
        if parts.label_logit_T is not None:
            yield from _label_promises(parts)
        if targets.samples is not None and targets.samples.logits_S is not None:
            yield from _draw_promises(parts)
        if targets.logsumexp_TG is not None:
            yield from _logsumexp_promises(parts)


class _Parts:
    """The parts of T targets, widened, with what each may be off by."""

    def __init__(self, window: Window, targets: SoftTargets, origin: Origin) -> None:
        packed = window.packed
        self.schema: TargetSchema = packed.schema
        self.targets, self.origin = targets, origin
        self.num = len(targets)
        head, samples = self.schema.head, self.schema.samples
        self.num_entries_T = targets.num_entries_T.astype(np.int64)
        width = targets.ids_TK.shape[1]
        self.is_kept_TK = kept_entries(targets.num_entries_T, width)
        self.logits_TK = targets.logits_TK.astype(np.float64)
        self.head_error_T = np.zeros(self.num)
        if head is not None and head.step is not None:
            self.head_error_T += head.step / 2 + _rounding(targets.logits_TK)
        self.top_T = None if packed.top_logit_T is None else packed.top_logit_T.astype(np.float64)
        if head is not None:
            last_T1 = self.num_entries_T[:, None] - 1
            self.lowest_T = np.take_along_axis(self.logits_TK, last_T1, axis=1)[:, 0]
        self.is_tail_drawn = samples is not None and samples.origin == "tail"
        self.sample_error = 0.0
        if samples is not None and samples.step is not None:
            assert targets.samples is not None
            assert targets.samples.logits_S is not None
            rounding = _rounding(targets.samples.logits_S[None]).max(initial=0)
            self.sample_error = samples.step / 2 + float(rounding)
        self.label_logit_T = None
        if targets.label_logit_T is not None and targets.label_rank_T is not None:
            self.label_logit_T = targets.label_logit_T.astype(np.float64)
            self.label_rank_T = targets.label_rank_T.astype(np.int64)
            self.label_ids_T = window.labels_T

    @property
    def sample_position_S(self) -> Any:
        """Return the position of each sampled id."""
        assert self.targets.samples is not None
        return np.repeat(np.arange(self.num), self.targets.samples.num_samples_T)

    def sum_samples(self, values_S: Float64) -> Float64:
        """Return the sums [T] of a number of each sampled id."""
        return np.bincount(self.sample_position_S, values_S, self.num).astype(np.float64)

    def mass_error_T(self, temperature: float, scale_T: Float64) -> Float64:
        """Return by what share a mass may be off, where exponents are at most as large as this."""
        exponent_T = np.abs(scale_T) / temperature + 104
        return 4 * 2.0**-24 * (self.schema.vocab_size + exponent_T)

    @property
    def lost(self) -> float:
        """Return how much of the tail's weight may have been too small to be added."""
        return float(self.schema.vocab_size) ** 2 * 2.0**-126

    def head_weight_T(self, temperature: float) -> Float64:
        """Return S."""
        assert self.top_T is not None
        below_TK = (self.logits_TK - self.top_T[:, None]) / temperature
        return np.asarray(np.exp(below_TK).sum(axis=1))

    def odds_T(self, temperature: float) -> Float64:
        """Return R / (1 - R)."""
        index = self.targets.temperatures.index(temperature)
        mass_T = self.targets.tail_mass_TG[:, index].astype(np.float64)
        return np.asarray(mass_T / (1 - mass_T))

    def tail_weight_T(self, temperature: float) -> tuple[Float64, Float64]:
        """Return W, and by what factor it may be off."""
        assert self.top_T is not None
        error_T = self.mass_error_T(temperature, self.top_T) + self.head_error_T / temperature
        return self.odds_T(temperature) * self.head_weight_T(temperature), np.exp(error_T)


def _rounding(logits_TK: Float32) -> Float64:
    """Return what rounding to float32 adds to the error of logits at most, [T]."""
    finite_TK = np.where(np.isfinite(logits_TK), np.abs(logits_TK), 0).astype(np.float64)
    return np.asarray(finite_TK.max(axis=1, initial=0) * 2.0**-23)


def _tail_promises(parts: _Parts) -> Promises:
    """Yield what tail masses must be by the entries, and by each other.

    A weight is at most 1, and outside the highest entries at most the lowest entry's. With a power
    a = T2 / T1 > 1, the weights at T1 are those at T2 to the a: as these are at most 1 their sum
    rises with T, and by the inequality of power means W(T1) is at least W(T2)^a / N^(a - 1), N
    being the number of ids in the tail. The odds of a tail below every entry rise with T, too.
    """
    assert parts.top_T is not None
    outside_T = parts.schema.vocab_size - parts.num_entries_T
    highest_T = parts.lowest_T if parts.origin.keeps_highest else parts.top_T
    temperatures = sorted(parts.targets.temperatures)
    weights = {one: parts.tail_weight_T(one) for one in temperatures}
    for temperature, (weight_T, factor_T) in weights.items():
        most_T = outside_T * np.exp((highest_T - parts.top_T) / temperature)
        yield (
            f"a tail mass at temperature {temperature:g} that ids below the entries can have",
            weight_T <= most_T * factor_T**2,
        )
    for low, high in pairwise(temperatures):
        power = high / low
        (low_T, low_factor_T), (high_T, high_factor_T) = weights[low], weights[high]
        factor_T = low_factor_T * high_factor_T
        rises_T = low_T <= high_T * factor_T + parts.lost
        if parts.origin.keeps_highest:
            error_T = parts.mass_error_T(low, parts.top_T) + parts.mass_error_T(high, parts.top_T)
            rises_T &= parts.odds_T(low) <= parts.odds_T(high) * np.exp(error_T) + parts.lost
        yield f"a tail mass that rises from temperature {low:g} to {high:g}", rises_T
        spread_T = high_T / np.maximum(outside_T, 1)
        least_T = outside_T * (spread_T / high_factor_T) ** power
        yield (
            f"tail masses of one distribution at temperatures {low:g} and {high:g}",
            least_T <= low_T * low_factor_T + parts.lost,
        )


def _label_promises(parts: _Parts) -> Promises:
    """Yield what the label's logit and rank must be by all that is known of other logits."""
    assert parts.label_logit_T is not None
    logit_T, rank_T = parts.label_logit_T, parts.label_rank_T
    num_above_T = np.zeros(parts.num, np.int64)
    if parts.schema.head is not None:
        assert parts.top_T is not None
        is_top_T = logit_T == parts.top_T
        yield (
            "a label logit that is the top one where the label's rank is 0, and below it elsewhere",
            (logit_T <= parts.top_T) & (is_top_T == (rank_T == 0)),
        )
        is_above_TK = parts.logits_TK - parts.head_error_T[:, None] > logit_T[:, None]
        num_above_T += is_above_TK.sum(axis=1)
        yield from _entry_promises(parts)
    samples = parts.targets.samples
    if samples is not None and samples.logits_S is not None:
        at_S = parts.sample_position_S
        is_above_S = samples.logits_S - parts.sample_error > logit_T[at_S]
        is_label_S = samples.ids_S == parts.label_ids_T[at_S]
        # Draws from the whole vocabulary beside a head would count its entries twice.
        if parts.schema.head is None or parts.is_tail_drawn:
            num_above_T += parts.sum_samples(is_above_S.astype(np.float64)).astype(np.int64)
        is_off_S = np.abs(samples.logits_S - logit_T[at_S]) > parts.sample_error
        num_wrong_T = parts.sum_samples((is_label_S & is_off_S).astype(np.float64))
        yield "a label logit that is that of the label among the draws", num_wrong_T == 0
    yield "no more logits above the label's than its rank", num_above_T <= rank_T


def _entry_promises(parts: _Parts) -> Promises:
    """Yield what the label's logit and rank must be by the entries of the head."""
    assert parts.label_logit_T is not None
    assert parts.top_T is not None
    logit_T, rank_T = parts.label_logit_T, parts.label_rank_T
    is_label_TK = (parts.targets.ids_TK == parts.label_ids_T[:, None]) & parts.is_kept_TK
    is_kept_T, place_T = is_label_TK.any(axis=1), is_label_TK.argmax(axis=1)
    own_T = np.take_along_axis(parts.logits_TK, place_T[:, None], axis=1)[:, 0]
    is_own_T = np.abs(own_T - logit_T) <= parts.head_error_T
    yield "a label logit that is that of the label's entry", ~is_kept_T | is_own_T
    if parts.origin.keeps_highest:
        yield "a label's rank of at most its entry's", ~is_kept_T | (rank_T <= place_T)
        is_low_T = logit_T <= parts.lowest_T + parts.head_error_T
        yield "a label's logit that is not above the entries without it", is_kept_T | is_low_T
        # All that are above the label are entries if they are no more than those.
        before_T = np.clip(rank_T - 1, 0, parts.logits_TK.shape[1] - 1)
        last_T = np.take_along_axis(parts.logits_TK, before_T[:, None], axis=1)[:, 0]
        is_within_T = (rank_T > 0) & (rank_T <= parts.num_entries_T)
        yield (
            "as many entries above the label's logit as its rank",
            ~is_within_T | (last_T >= logit_T - parts.head_error_T),
        )
    if parts.origin.is_tail_exact:
        # Of those above the label, at most the entries but its own are in the head.
        num_T = np.maximum(rank_T - parts.num_entries_T + is_kept_T, 0) + ~is_kept_T
        for temperature in parts.targets.temperatures:
            weight_T, factor_T = parts.tail_weight_T(temperature)
            least_T = num_T * np.exp((logit_T - parts.top_T) / temperature)
            yield (
                f"a tail mass at temperature {temperature:g} that holds the label, and what is "
                "above it",
                least_T <= weight_T * factor_T + parts.lost,
            )
            if parts.origin.keeps_highest:
                # Outside are those above the label, and others that are at most as high as it.
                lowest_T, label_T = (
                    np.exp((one_T - parts.top_T) / temperature)
                    for one_T in (parts.lowest_T, logit_T)
                )
                outside_T = parts.schema.vocab_size - parts.num_entries_T
                above_T = np.maximum(rank_T - parts.num_entries_T, 0)
                most_T = above_T * lowest_T + (outside_T - above_T) * label_T
                yield (
                    f"a tail mass at temperature {temperature:g} that ids around the label can "
                    "have",
                    is_kept_T | (weight_T <= most_T * factor_T**2),
                )


def _draw_promises(parts: _Parts) -> Promises:
    """Yield what the logits of draws must be, and what mass they prove."""
    samples = parts.targets.samples
    assert samples is not None
    assert samples.logits_S is not None
    at_S, logits_S = parts.sample_position_S, samples.logits_S.astype(np.float64)
    if parts.top_T is not None:
        highest_T = np.full(parts.num, -np.inf)
        np.maximum.at(highest_T, at_S, logits_S)
        yield "drawn logits that are not above the top one", highest_T <= parts.top_T
        if parts.schema.head is None:
            yield "a drawn logit that is the top one", highest_T == parts.top_T
        if parts.is_tail_drawn and parts.origin.keeps_highest:
            error_T = parts.head_error_T + parts.sample_error
            is_below_T = highest_T <= parts.lowest_T + error_T
            yield "logits drawn from the tail that are not above the entries", is_below_T
    is_whole = not parts.is_tail_drawn and parts.schema.head is None
    if not is_whole and not (parts.is_tail_drawn and parts.origin.is_tail_exact):
        return
    for index, temperature in enumerate(parts.targets.temperatures):
        if parts.is_tail_drawn:
            assert parts.top_T is not None
            scale_T = parts.top_T
            whole_T, factor_T = parts.tail_weight_T(temperature)
        else:
            assert parts.targets.logsumexp_TG is not None
            scale_T = parts.targets.logsumexp_TG[:, index].astype(np.float64) * temperature
            whole_T = np.ones(parts.num)
            factor_T = np.exp(parts.mass_error_T(temperature, scale_T))
        drawn_T = parts.sum_samples(np.exp((logits_S - scale_T[at_S]) / temperature))
        factor_T = factor_T * np.exp(parts.sample_error / temperature)
        yield (
            f"a mass at temperature {temperature:g} that holds what was drawn",
            drawn_T <= whole_T * factor_T + parts.lost,
        )


def _logsumexp_promises(parts: _Parts) -> Promises:
    """Yield what the logsumexps must be, without a head, by each other and by the label.

    T lse(T) is the logarithm of a norm that rises with T, and T (lse(T) - log V) that of a power
    mean that falls with it.
    """
    assert parts.targets.logsumexp_TG is not None
    grid = parts.targets.temperatures
    lse = {one: parts.targets.logsumexp_TG[:, grid.index(one)].astype(np.float64) for one in grid}
    error = {one: parts.mass_error_T(one, lse[one] * one) for one in grid}
    width = np.log(parts.schema.vocab_size)
    for low, high in pairwise(sorted(grid)):
        error_T = low * error[low] + high * error[high]
        rises_T = low * lse[low] <= high * lse[high] + error_T
        falls_T = high * (lse[high] - width) <= low * (lse[low] - width) + error_T
        yield (
            f"logsumexps of one distribution at temperatures {low:g} and {high:g}",
            rises_T & falls_T,
        )
    if parts.label_logit_T is not None:
        for temperature in grid:
            above_T = np.log(parts.label_rank_T + 1) + parts.label_logit_T / temperature
            yield (
                f"a logsumexp at temperature {temperature:g} that holds the label, and what is "
                "above it",
                above_T <= lse[temperature] + error[temperature],
            )
