"""The teacher's entropy, as far as a store of draws can tell it.

On draws a loss is the cross-entropy -sum t_hat log s. The forward KL is that less the teacher's
entropy -sum t log t, which does not depend on the student. An estimate of it makes the value a KL.

Where the logits of the drawn ids are stored, -sum t_hat log t is an unbiased estimate, with the
very draws of the cross-entropy: the two differ by nothing when the student is the teacher. Else
there are only counts, of which no unbiased estimate exists. Beside a head the tail's entropy is
then that of normally distributed logits, with the mass and the largest logit that are stored. Draws
alone are treated as ecologists treat species of which they have seen few.

Shapes: N positions with a target, S drawn ids, E entries, Q nodes.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from softtargets.stream.batch import Batch, BatchTargets
from softtargets.targets import temperature_index

_ANCHOR = 0.75
"""Which of the kept entries the tail is taken to begin after: the last ones may be pinned ids."""
_STEPS = 20
"""Of Newton's method."""
_LARGEST_SIGMA = 10.0
"""Of logits in nats; models' are below 5."""
_NODES = 48
"""Of the quadrature: it is exact to 1e-4 of the result for up to 65,536 draws."""


def estimated_entropy(
    batch: Batch, targets: BatchTargets, places_N: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return the teacher's entropy [N] in nats at a temperature, estimated from head and draws.

    Args:
        batch: with draws.
        targets: those of the batch at the temperature.
        places_N: where the positions stand among the B L of the batch.
        temperature: one of the grid.
    """
    assert targets.sample_weights is not None
    log_t_NE = targets.logprobs.flatten(0, 1)[places_N]
    head_N = _minus_sum(log_t_NE.exp(), log_t_NE)
    if "sample_logits" in batch:
        weights_NS = targets.sample_weights.flatten(0, 1)[places_N]
        logits_NS = batch["sample_logits"].flatten(0, 1)[places_N]
        logsumexp_N = whole_logsumexp(batch, targets, temperature).flatten()[places_N]
        return head_N + _minus_sum(weights_NS, logits_NS / temperature - logsumexp_N[:, None])
    if log_t_NE.shape[1]:
        log_rest_N = targets.tail_logmass.flatten()[places_N]
        return head_N + entropy_of_tail(log_t_NE, log_rest_N, batch["vocab_size"])
    return entropy_of_counts(batch["sample_counts"].flatten(0, 1)[places_N])


def entropy_of_tail(
    log_t_NE: torch.Tensor, log_rest_N: torch.Tensor, vocab_size: int
) -> torch.Tensor:
    """Return about -sum t log t [N] in nats over the ids that are not among the kept entries.

    The log-probabilities of the whole vocabulary are taken to be normally distributed below an
    entry: so many are above it as were kept, and what is below it has the mass that is known. The
    deviation follows by Newton's method, which converges from 0 as the log of that mass is convex
    and falls. What entries below that one have of the result is known, and taken off.

    Args:
        log_t_NE: log-probabilities of entries, falling; -inf for none.
        log_rest_N: log of the probability of all other ids; -inf for none.
        vocab_size: how many ids there are.
    """
    num_entries_N = (log_t_NE > -torch.inf).sum(dim=1)
    anchor_N = (num_entries_N * _ANCHOR).ceil().long().clamp(min=1)
    anchor_N1 = anchor_N[:, None]
    is_below_NE = torch.arange(log_t_NE.shape[1], device=log_t_NE.device) >= anchor_N1
    below_NE = log_t_NE.masked_fill(~is_below_NE, -torch.inf)
    log_mass_N = torch.logaddexp(below_NE.logsumexp(dim=1), log_rest_N)
    has_rest_N = (log_rest_N > -torch.inf) & (num_entries_N > 0)
    # Where there is no tail any numbers do.
    top_N = log_t_NE.gather(1, anchor_N1 - 1)[:, 0].masked_fill(~has_rest_N, -1)
    log_mass_N = log_mass_N.masked_fill(~has_rest_N, -1)
    above_N = -torch.special.ndtri(anchor_N / vocab_size)
    sigma_N, scale = torch.zeros_like(top_N), math.log(vocab_size)
    for _ in range(_STEPS):
        gap_N = above_N - sigma_N
        found_N = scale + top_N - above_N * sigma_N + sigma_N**2 / 2
        found_N = found_N + torch.special.log_ndtr(gap_N)
        slope_N = gap_N + _hazard(gap_N)
        sigma_N = (sigma_N + (found_N - log_mass_N) / slope_N).clamp(0, _LARGEST_SIGMA)
    mean_N = top_N - above_N * sigma_N + sigma_N**2 - sigma_N * _hazard(above_N - sigma_N)
    # What holds of any distribution of that mass over so many ids, none above the entry.
    least_N = -torch.minimum(top_N, log_mass_N)
    most_N = (vocab_size - anchor_N).log() - log_mass_N
    whole_N = log_mass_N.exp() * torch.minimum(torch.maximum(-mean_N, least_N), most_N)
    tail_N = whole_N - _minus_sum(below_NE.exp(), below_NE)
    return tail_N.masked_fill(~has_rest_N, 0)


def _hazard(at_N: torch.Tensor) -> torch.Tensor:
    """Return the normal density over the normal distribution function."""
    return torch.exp(-(at_N**2) / 2 - 0.5 * math.log(2 * math.pi) - torch.special.log_ndtr(at_N))


def entropy_of_counts(counts_NS: torch.Tensor) -> torch.Tensor:
    """Return the entropy [N] in nats of distributions that ids were drawn from, by their counts.

    Chao, Wang, Jost 2013, "Entropy and the species accumulation curve", equation 7: unbiased for
    what n draws can tell; what ids add that were not drawn is extrapolated from how many were drawn
    once, f_1, and twice, f_2.
    """
    counts_NS = counts_NS.float()
    n_N = counts_NS.sum(dim=1).clamp(min=1)
    is_drawn_NS = counts_NS > 0
    seen_NS = torch.digamma(n_N)[:, None] - torch.digamma(counts_NS.clamp(min=1))
    seen_N = (counts_NS * seen_NS.masked_fill(~is_drawn_NS, 0)).sum(dim=1) / n_N
    once_N = (counts_NS == 1).sum(dim=1).float()
    twice_N = (counts_NS == 2).sum(dim=1).float()
    # The mean probability of an id that was drawn once.
    as_twice_N = torch.where(twice_N > 0, 2 * twice_N, 2)
    as_once_N = torch.where(twice_N > 0, once_N, (once_N - 1).clamp(min=0))
    mean_N = as_twice_N / ((n_N - 1) * as_once_N + as_twice_N)
    return seen_N + once_N / n_N * _unseen(mean_N, n_N)


def _unseen(mean_N: torch.Tensor, n_N: torch.Tensor) -> torch.Tensor:
    """Return (1 - A)^(1 - n) (-log A - sum_(0 < r < n) (1 - A)^r / r) [N] for A in (0, 1].

    That is the integral of (1 - A (e^w - 1) / (1 - A))^(n - 1) over w from 0 to -log A, by
    Gauss-Legendre quadrature.
    """
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    nodes_Q, weights_Q = (
        torch.from_numpy(one).to(mean_N) for one in ((nodes + 1) / 2, weights / 2)
    )
    length_N = -mean_N.log()
    others_N1 = (1 - mean_N).clamp(min=torch.finfo(mean_N.dtype).tiny)[:, None]
    grown_NQ = torch.expm1(length_N[:, None] * nodes_Q)
    kept_NQ = (1 - mean_N[:, None] * grown_NQ / others_N1).clamp(min=0)
    return length_N * (kept_NQ ** (n_N - 1)[:, None] * weights_Q).sum(dim=1)


def _minus_sum(weights: torch.Tensor, logs: torch.Tensor) -> torch.Tensor:
    """Return -sum w log over the last dimension; a weight of 0 gives 0."""
    return -(weights * logs.masked_fill(weights == 0, 0)).sum(dim=-1)


def whole_logsumexp(batch: Batch, targets: BatchTargets, temperature: float) -> torch.Tensor:
    """Return log(sum over the vocabulary of exp(z / T)) [B, L], where there is a target."""
    if "logsumexp" in batch:
        index = temperature_index(batch["temperatures"], temperature)
        stored: torch.Tensor = batch["logsumexp"][..., index]
        return stored
    # The first entry is the top one, and always kept.
    top: torch.Tensor | float = 0.0
    if "entry_logits" in batch:
        top = batch["entry_logits"][..., 0]
    elif "logits" in batch:
        top = batch["logits"][..., 0]
    elif "top_logit" in batch:
        top = batch["top_logit"]
    logsumexp: torch.Tensor = top / temperature - targets.logprobs[..., 0]
    return logsumexp
