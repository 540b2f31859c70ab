"""What the parts of a target say about each other: numbers that are sound can contradict.

Every tolerance follows from how numbers are stored and computed:

- An entry in steps is off by at most step / 2; in float32 it is exact. Its sum with the top logit
  is rounded to float32. The same holds of a label's logit in steps. Any other label's logit, the
  top logit and float32 draws are exact.
- The log-odds of a mass in steps are off by at most step / 2.
- Masses are quotients of float32 sums of at most V terms that are not negative. In whatever order
  they are added, such a sum is off by at most V 2^-24 of itself; a term exp(z / T) by 2^-24 times
  its exponent, which is at most |top| / T + 104 where the term is above 0. Four times both covers
  sum, quotient and the square that serves half a temperature.
- A term below 2^-126 may be lost, so that V^2 2^-126 of the top's weight may be missing.

Weights below are exp((z - top) / T): those of the entries sum to S, and the tail's is
W = R / (1 - R) S, with R its mass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from softtargets.targets.arrays import Array, Bool, Float32, Float64, Int32, Int64
from softtargets.targets.entry_bytes import kept_entries
from softtargets.targets.soft_targets import SoftTargets

_LARGEST_TOP = 1000.0
"""What the top logit is taken to be at most where it is not stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What the identity says of how targets were made; what is not known is not checked."""

    is_tail_exact: bool = False
    """Whether tail masses are those of the whole vocabulary, before anything was rounded."""
    keeps_highest: bool = False
    """Whether no id outside the entries has a logit above one of them."""

    @classmethod
    def of(cls, identity: Mapping[str, Any]) -> Origin:
        """Return what an identity says."""
        selection = identity.get("selection", {})
        is_captured = "imported" not in identity
        return cls(
            is_tail_exact=is_captured,
            keeps_highest=is_captured
            and selection.get("kind") in ("topk", "topp", "hybrid", "threshold")
            and "pins" not in selection,
        )


class Evidence:
    """T targets, widened, with what each number may be off by.

    Args:
        targets: whose columns are sound, each by itself.
        vocab_size: of the teacher.
        top_logit_T: the highest stored logits, exact; None without any. Entries whose logits are
            relative to the highest have it as their first.
        label_ids_T: the labels; None where nothing is stored of them.
        entry_step: width of an entry's step; None if entries are exact.
        draw_step: width of a draw's step; None if draws are exact.
        grid_step: width of a step of a mass's log-odds; None if masses are as they were computed.
        label_step: width of a step of a label's logit; None if it is exact.
        is_tail_drawn: whether draws are from the tail.
        origin: how the targets were made.
    """

    def __init__(
        self,
        targets: SoftTargets,
        *,
        vocab_size: int,
        top_logit_T: Float32 | None,
        label_ids_T: Int32 | None,
        entry_step: float | None,
        draw_step: float | None,
        grid_step: float | None = None,
        label_step: float | None = None,
        is_tail_drawn: bool,
        origin: Origin,
    ) -> None:
        self.targets, self.origin = targets, origin
        self.vocab_size, self.is_tail_drawn = vocab_size, is_tail_drawn
        self.num = len(targets)
        self.has_entries = targets.ids_TK.shape[1] > 0
        self.num_entries_T = targets.num_entries_T.astype(np.int64)
        self.is_kept_TK = kept_entries(targets.num_entries_T, targets.ids_TK.shape[1])
        self.logits_TK = targets.logits_TK.astype(np.float64)
        self.entry_error_T = np.zeros(self.num)
        if entry_step is not None:
            self.entry_error_T += entry_step / 2 + _rounding(targets.logits_TK)
        self.unknown_top = 0.0
        if top_logit_T is None and self.has_entries:
            top_logit_T = targets.logits_TK[:, 0]
            self.unknown_top = _LARGEST_TOP
        self.has_top = top_logit_T is not None
        if top_logit_T is not None:
            self.top_T = top_logit_T.astype(np.float64)
        self.grid_error = (grid_step or 0.0) / 2
        if self.has_entries:
            last_T1 = self.num_entries_T[:, None] - 1
            self.lowest_T = np.take_along_axis(self.logits_TK, last_T1, axis=1)[:, 0]
        self.draw_error = 0.0
        if draw_step is not None and targets.samples is not None:
            assert targets.samples.logits_S is not None
            rounding = _rounding(targets.samples.logits_S[None]).max(initial=0)
            self.draw_error = draw_step / 2 + float(rounding)
        self.has_labels = label_ids_T is not None
        if label_ids_T is not None:
            assert targets.label_logit_T is not None
            assert targets.label_rank_T is not None
            self.label_ids_T = label_ids_T
            self.label_logit_T = targets.label_logit_T.astype(np.float64)
            self.label_rank_T = targets.label_rank_T.astype(np.int64)
        self.label_error = 0.0
        if label_step is not None and targets.label_logit_T is not None:
            rounding = _rounding(targets.label_logit_T[None]).max(initial=0)
            self.label_error = label_step / 2 + float(rounding)

    @property
    def is_label_TK(self) -> Bool:
        """Return which entries are the label's."""
        is_label_TK = self.targets.ids_TK == self.label_ids_T[:, None]
        return np.asarray(is_label_TK & self.is_kept_TK)

    @property
    def sample_position_S(self) -> Int64:
        """Return the position of each sampled id."""
        assert self.targets.samples is not None
        return np.repeat(np.arange(self.num), self.targets.samples.num_samples_T)

    def sum_samples(self, values_S: Float64) -> Float64:
        """Return the sums [T] of a number of each sampled id."""
        return np.bincount(self.sample_position_S, values_S, self.num).astype(np.float64)

    def mass_error_T(self, temperature: float, scale_T: Float64) -> Float64:
        """Return by what share a mass may be off, where exponents are at most as large as this."""
        exponent_T = (np.abs(scale_T) + self.unknown_top) / temperature + 104
        return 4 * 2.0**-24 * (self.vocab_size + exponent_T)

    def odds_error_T(self, temperature: float) -> Float64:
        """Return by what share the odds of a tail may be off."""
        return self.mass_error_T(temperature, self.top_T) + self.grid_error

    @property
    def lost(self) -> float:
        """Return how much of the tail's weight may have been too small to be added."""
        return float(self.vocab_size) ** 2 * 2.0**-126

    def entry_weight_T(self, temperature: float) -> Float64:
        """Return S."""
        below_TK = (self.logits_TK - self.top_T[:, None]) / temperature
        return np.asarray(np.exp(below_TK).sum(axis=1))

    def odds_T(self, temperature: float) -> Float64:
        """Return R / (1 - R)."""
        index = self.targets.temperatures.index(temperature)
        mass_T = self.targets.tail_mass_TG[:, index].astype(np.float64)
        return np.asarray(mass_T / (1 - mass_T))

    def tail_weight_T(self, temperature: float) -> tuple[Float64, Float64]:
        """Return W, and by what factor it may be off."""
        error_T = self.odds_error_T(temperature) + self.entry_error_T / temperature
        return self.odds_T(temperature) * self.entry_weight_T(temperature), np.exp(error_T)

    def is_at_most(self, low_T: Array, high_T: Array, factor_T: Array, lost: float = 0.0) -> Bool:
        """Return where one weight is at most another, within what they may be off by.

        A factor beyond float64's range proves nothing. At a temperature below about step / 1400,
        half a step of a logit is one.

        Args:
            low_T: the weight.
            high_T: the other.
            factor_T: by what factor the two may be off together.
            lost: how much the other may lack.
        """
        return np.asarray((low_T <= high_T * factor_T + lost) | np.isinf(factor_T))


def _rounding(logits_TK: Float32) -> Float64:
    """Return what rounding to float32 adds to the error of logits at most, [T]."""
    finite_TK = np.where(np.isfinite(logits_TK), np.abs(logits_TK), 0).astype(np.float64)
    return np.asarray(finite_TK.max(axis=1, initial=0) * 2.0**-23)
