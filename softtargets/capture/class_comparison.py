"""How far stored class logits are from a live teacher's, beside what that itself varies by.

Shapes: T targets, C classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from softtargets.capture.comparison import ROUNDING, Distance, Fidelity
from softtargets.targets import Float32, Float64, TargetSchema


class ClassComparison:
    """Class logits beside two live passes, at temperature 1, summed over targets.

    What is compared are log-probabilities of classes, or of each label's yes and no. Scores are
    compared as they are, and their divergence is that of normal distributions of variance 1 around
    them, half of the squared difference.
    """

    def __init__(self, schema: TargetSchema) -> None:
        self._problem = schema.problem
        self._num_targets = 0
        self._stored, self._live = np.zeros(2), np.zeros(2)

    def add(
        self, stored_TC: Float32 | None, logits_TC: torch.Tensor, other_TC: torch.Tensor
    ) -> None:
        """Compare some targets.

        Args:
            stored_TC: theirs in the store.
            logits_TC: the live teacher's, of windows read alone.
            other_TC: of windows read together.
        """
        assert stored_TC is not None
        self._num_targets += len(stored_TC)
        self._stored += self._distance(logits_TC, torch.from_numpy(stored_TC.copy()))
        self._live += self._distance(logits_TC, other_TC)

    def join(self, other: ClassComparison) -> None:
        """Add what was found of other targets."""
        self._num_targets += other._num_targets
        # Arrays that came from other processes may be read-only.
        self._stored = self._stored + other._stored
        self._live = self._live + other._live

    def fidelity(self) -> Fidelity:
        """Return what was found; the store adds nothing but the rounding of float32 sums."""
        return Fidelity(
            temperature=1.0,
            stored=self._mean(self._stored),
            live=self._mean(self._live),
            bound=ROUNDING,
            truncation_kl=None,
            draws_deviation=None,
        )

    def _mean(self, sums: Float64) -> Distance:
        largest, kl = (sums / self._num_targets).tolist()
        return Distance(largest=largest, kl=kl)

    def _distance(self, logits_TC: torch.Tensor, other_TC: torch.Tensor) -> tuple[float, float]:
        """Return the sums over targets of the largest difference, and of the divergence."""
        if self._problem == "regression":
            apart_TC = (logits_TC.double() - other_TC.double()).abs()
            divergence = apart_TC.square().sum() / 2
            return float(apart_TC.amax(dim=1).sum()), float(divergence)
        own, other = self._logprobs(logits_TC), self._logprobs(other_TC)
        is_possible = own.isfinite() | other.isfinite()
        apart = (own - other).abs().masked_fill(~is_possible, 0)
        terms = (own.exp() * (own - other)).masked_fill(own == -torch.inf, 0)
        return float(apart.amax(dim=1).sum()), float(terms.sum())

    def _logprobs(self, logits_TC: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of all outcomes of each target, [T, C] or [T, 2 C]."""
        wide_TC = logits_TC.double()
        if self._problem == "multi_label":
            answers = functional.logsigmoid(wide_TC), functional.logsigmoid(-wide_TC)
            return torch.cat(answers, dim=1)
        return wide_TC.log_softmax(dim=1)
