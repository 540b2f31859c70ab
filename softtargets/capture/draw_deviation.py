"""By how much what was drawn is off what a live teacher makes of it, and how much that may be.

The statistic is S = sum_i c_i g_i / N of a position, with c_i how often id i was drawn and g_i its
log-probability, from which the mean over all that can be drawn is taken off. Its expectation is 0.

The variance follows from the design. Of N independent draws it is sum_i q_i g_i^2 / N. Systematic
and threshold draws depend on one u that is uniform in [0, 1). With F the running sum of the counts
that are expected, c_i = floor(F_i + u) - floor(F_(i-1) + u) (Madow 1949), so that
S(u) = sum_i floor(F_i + u) (g_i - g_(i+1)) / N. The variance is the mean of S(u)^2, here over 2^14
evenly spread u. That costs as much as some passes over the vocabulary.

Of threshold draws the number is random too, which S does not tell. With f the fraction of the
number that is expected, its variance is f (1 - f). Where it is small, one draw more is many
standard errors and yet not unlikely. So a deviation D of the number is divided by
sqrt(variance + |D| / 3): by Bernstein's inequality it is then beyond x with a probability of at
most 2 exp(-x^2 / 2).

Shapes: T positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from softtargets.targets import Samples

_POINTS = 1 << 14
"""Values of u."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawDeviation:
    """S, summed over positions."""

    drawn: float = 0.0
    variance: float = 0.0
    live: float = 0.0
    """What the expectation of S differs by between two live passes."""
    extra: float = 0.0
    """How many more were drawn than expected, summed over positions."""
    extra_variance: float = 0.0
    extra_live: float = 0.0
    """What the expected number differs by between two live passes."""

    def __add__(self, other: DrawDeviation) -> DrawDeviation:
        return DrawDeviation(
            drawn=self.drawn + other.drawn,
            variance=self.variance + other.variance,
            live=self.live + other.live,
            extra=self.extra + other.extra,
            extra_variance=self.extra_variance + other.extra_variance,
            extra_live=self.extra_live + other.extra_live,
        )

    def in_errors(self, least_variance: float) -> float:
        """Return S, or the number if it is further off, in standard errors.

        They have what the teacher varies by in them.
        """
        variance = max(self.variance, least_variance) + self.live**2
        extra_variance = max(self.extra_variance, least_variance) + self.extra_live**2
        off = self.drawn / variance**0.5
        number_off = self.extra / (extra_variance + abs(self.extra) / 3) ** 0.5
        return float(max(off, number_off, key=abs))


def draw_deviation(
    samples: Samples,
    expected_TV: torch.Tensor,
    other_TV: torch.Tensor,
    logprobs_TV: torch.Tensor,
    num_draws: int,
    *,
    is_independent: bool,
) -> DrawDeviation:
    """Return how far draws are off.

    Args:
        samples: what was drawn.
        expected_TV: how often each id is drawn in the mean, float64; 0 for what cannot be.
        other_TV: the same by another live pass.
        logprobs_TV: finite numbers, float64.
        num_draws: N.
        is_independent: whether draws are independent of each other.
    """
    num_T1 = expected_TV.sum(dim=1, keepdim=True)
    mean_T1 = (expected_TV * logprobs_TV).sum(dim=1, keepdim=True)
    mean_T1 /= num_T1.clamp(min=torch.finfo(torch.float64).tiny)
    apart_TV = (logprobs_TV - mean_T1).masked_fill_(expected_TV <= 0, 0).div_(num_draws)
    num_samples_T = samples.num_samples_T
    rows_S = torch.from_numpy(np.repeat(np.arange(len(num_samples_T)), num_samples_T))
    ids_S = torch.from_numpy(samples.ids_S.astype(np.int64))
    # What cannot be drawn and yet was counts by how far it is from what can.
    own_S = (logprobs_TV[rows_S, ids_S] - mean_T1[rows_S, 0]) / num_draws
    if is_independent:
        variance = float((expected_TV * apart_TV**2).sum())
    else:
        # A row at a time: beside it there are the points.
        rows = zip(expected_TV, apart_TV, strict=True)
        variance = sum(_variance_over_starts(*row) for row in rows)
    counts_S = torch.from_numpy(samples.counts_S.astype(np.float64))
    return DrawDeviation(
        drawn=float((own_S * counts_S).sum()),
        variance=variance,
        live=float((other_TV * apart_TV).sum()),
    ) + _of_number(counts_S, num_T1, other_TV)


def _of_number(
    counts_S: torch.Tensor, num_T1: torch.Tensor, other_TV: torch.Tensor
) -> DrawDeviation:
    """Return how far the number of draws is off."""
    share_T1 = num_T1 - num_T1.floor()
    return DrawDeviation(
        extra=float(counts_S.sum() - num_T1.sum()),
        extra_variance=float((share_T1 * (1 - share_T1)).sum()),
        extra_live=float(other_TV.sum() - num_T1.sum()),
    )


def _variance_over_starts(expected_V: torch.Tensor, apart_V: torch.Tensor) -> float:
    """Return the mean of S(u)^2."""
    ends_V = expected_V.cumsum(dim=0)
    whole_V = ends_V.floor()
    steps_V = apart_V.clone()
    steps_V[:-1] -= apart_V[1:]
    # floor(F_i + u) is one more from u = 1 - (F_i - floor(F_i)) on.
    first_V = ends_V.sub_(whole_V).neg_().add_(1).mul_(_POINTS).sub_(0.5).ceil_().long()
    rises_M = first_V.bincount(steps_V, minlength=_POINTS + 1)[:_POINTS]
    sums_M = whole_V.dot(steps_V) + rises_M.cumsum(dim=0)
    return float(sums_M.square().mean())
