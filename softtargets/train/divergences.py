"""Divergences between a teacher's distribution t and a student's s, outcome by outcome.

Each gives a term for every outcome; their sum is the divergence in nats. An outcome is a token, or
all tokens that are not kept together: merging outcomes never raises a divergence of this kind (the
log-sum inequality), so on sparse targets each is a lower bound of what it is on full ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from softtargets.errors import InputError
from softtargets.train.choices import check_number


@dataclass(frozen=True, slots=True)
class ForwardKL:
    """KL(t || s) = sum t log(t / s); Hinton et al. 2015."""

    name: ClassVar = "forward KL"

    def terms(self, log_t: torch.Tensor, log_s: torch.Tensor) -> torch.Tensor:
        """Return the terms of outcomes with these log-probabilities, any shape; -inf is no mass."""
        return _kl_terms(log_t, log_s)


@dataclass(frozen=True, slots=True)
class ReverseKL:
    """KL(s || t) = sum s log(s / t); Gu et al. 2024, "MiniLLM"."""

    name: ClassVar = "reverse KL"

    def terms(self, log_t: torch.Tensor, log_s: torch.Tensor) -> torch.Tensor:
        """Return the terms of outcomes with these log-probabilities, any shape; -inf is no mass."""
        return _kl_terms(log_s, log_t)


@dataclass(frozen=True, slots=True)
class JSD:
    """beta KL(t || m) + (1 - beta) KL(s || m), m = beta t + (1 - beta) s; Agarwal et al. 2024.

    beta 0 is forward KL and beta 1 reverse KL by the convention of the trainers people use, though
    the formula gives 0 at both.
    """

    beta: float = 0.5
    name: ClassVar = "JSD"

    def __post_init__(self) -> None:
        _check_share("JSD, beta", self.beta, ends=True)

    def terms(self, log_t: torch.Tensor, log_s: torch.Tensor) -> torch.Tensor:
        """Return the terms of outcomes with these log-probabilities, any shape; -inf is no mass."""
        if self.beta in (0, 1):
            return _kl_terms(log_t, log_s) if self.beta == 0 else _kl_terms(log_s, log_t)
        log_m = _log_mix(log_t, log_s, self.beta)
        return self.beta * _kl_terms(log_t, log_m) + (1 - self.beta) * _kl_terms(log_s, log_m)


@dataclass(frozen=True, slots=True)
class SkewKL:
    """KL(t || alpha t + (1 - alpha) s); Ko et al. 2024, "DistiLLM"."""

    alpha: float = 0.1
    name: ClassVar = "skew KL"

    def __post_init__(self) -> None:
        _check_share("SkewKL, alpha", self.alpha, ends=False)

    def terms(self, log_t: torch.Tensor, log_s: torch.Tensor) -> torch.Tensor:
        """Return the terms of outcomes with these log-probabilities, any shape; -inf is no mass."""
        return _kl_terms(log_t, _log_mix(log_t, log_s, self.alpha))


@dataclass(frozen=True, slots=True)
class SkewReverseKL:
    """KL(s || alpha s + (1 - alpha) t); Ko et al. 2024, "DistiLLM"."""

    alpha: float = 0.1
    name: ClassVar = "skew reverse KL"

    def __post_init__(self) -> None:
        _check_share("SkewReverseKL, alpha", self.alpha, ends=False)

    def terms(self, log_t: torch.Tensor, log_s: torch.Tensor) -> torch.Tensor:
        """Return the terms of outcomes with these log-probabilities, any shape; -inf is no mass."""
        return _kl_terms(log_s, _log_mix(log_s, log_t, self.alpha))


Divergence = ForwardKL | ReverseKL | JSD | SkewKL | SkewReverseKL
DivergenceName = Literal["forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl"]
_NAMED: Mapping[str, type[Divergence]] = {
    "forward_kl": ForwardKL,
    "reverse_kl": ReverseKL,
    "jsd": JSD,
    "skew_kl": SkewKL,
    "skew_reverse_kl": SkewReverseKL,
}


def as_divergence(divergence: Divergence | DivergenceName) -> Divergence:
    """Return the divergence that is meant: itself, or that of a name with its default number.

    Raises:
        InputError: it is neither; the message lists the names.
    """
    if isinstance(divergence, Divergence):
        return divergence
    known: Any = divergence
    if isinstance(known, str) and known in _NAMED:
        return _NAMED[known]()
    raise InputError(
        "divergence",
        expected=f"one of {', '.join(map(repr, _NAMED))}, or an object such as JSD(beta=0.1)",
        found=repr(known),
        next_step="softtargets.train has ForwardKL, ReverseKL, JSD, SkewKL and SkewReverseKL.",
    )


def needs_mass_everywhere(divergence: Divergence) -> bool:
    """Return whether a divergence is infinite where the student has mass and the teacher none."""
    return isinstance(divergence, ReverseKL) or divergence == JSD(1)


def is_linear(divergence: Divergence) -> bool:
    """Return whether the student's gradient is linear in the teacher's probabilities."""
    return isinstance(divergence, ForwardKL) or divergence == JSD(0)


def _kl_terms(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return log_p.exp() * (log_p - log_q).masked_fill(log_p == -torch.inf, 0)


def _log_mix(log_p: torch.Tensor, log_q: torch.Tensor, share: float) -> torch.Tensor:
    """Return log(share p + (1 - share) q); 0 or so, without a gradient, where neither has mass."""
    has_none = (log_p == -torch.inf) & (log_q == -torch.inf)
    log_q = log_q.masked_fill(has_none, 0)
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))


def _check_share(where: str, value: float, *, ends: bool) -> None:
    check_number(
        where,
        value,
        low=0,
        high=1,
        with_ends=ends,
        next_step="0.5 and 0.1 are what the papers use for JSD and skew KL.",
    )
