"""Draws that the package cannot capture, as dense functions of the teacher's probabilities.

Each returns t_hat [N, V] with E[t_hat] = p over the uniforms u_N, which lie in [0, 1).

Shapes: N positions, V vocabulary, E entries.
"""

from __future__ import annotations

import torch

from softtargets.train.sparse import SparseTargets


def systematic(probabilities_NV: torch.Tensor, u_N: torch.Tensor, num_draws: int) -> torch.Tensor:
    """Return the shares [N, V] of `num_draws` draws from one systematic sample (Madow 1949).

    Draw j falls where the running sum of p passes (u + j) / num_draws, so an id with probability p
    is drawn floor(p * num_draws) or ceil(p * num_draws) times.
    """
    return _counts(probabilities_NV.double() * num_draws, u_N) / num_draws


def threshold(probabilities_NV: torch.Tensor, u_N: torch.Tensor, num_draws: int) -> torch.Tensor:
    """Return p [N, V] where p >= 1 / num_draws, and 1 / num_draws or 0 elsewhere.

    The other ids are one systematic sample, in which each is drawn at most once, with probability
    p * num_draws (Horvitz and Thompson 1952). The sum over ids is 1 within 1 / num_draws, and is
    not normalised, which would bias it.
    """
    p_NV = probabilities_NV.double()
    is_kept_NV = p_NV * num_draws >= 1
    counts_NV = _counts((p_NV * num_draws).masked_fill(is_kept_NV, 0), u_N)
    return torch.where(is_kept_NV, p_NV, counts_NV / num_draws)


def _counts(expected_NV: torch.Tensor, u_N: torch.Tensor) -> torch.Tensor:
    """Return how many of u, u + 1, ... lie in each id's part of the running sum."""
    reached_NV = (expected_NV.cumsum(dim=1) + u_N.double()[:, None]).floor()
    return reached_NV.diff(dim=1, prepend=torch.zeros_like(reached_NV[:, :1]))


def as_sparse(estimates_NV: torch.Tensor) -> SparseTargets:
    """Return what is not zero as entries [N, E], in the reading `sampled`."""
    num_entries = int((estimates_NV > 0).sum(dim=1).max())
    values_NE, ids_NE = estimates_NV.topk(num_entries, dim=1)
    return SparseTargets(
        ids_NE=ids_NE,
        log_targets_NE=values_NE.float().log(),
        log_rest_N=torch.full_like(values_NE[:, 0], -torch.inf, dtype=torch.float32),
        tail="sampled",
    )


def concatenated(parts: list[SparseTargets]) -> SparseTargets:
    """Return the positions of several, one after another, padded to the most entries."""
    most = max(part.ids_NE.shape[1] for part in parts)
    padded = [
        (
            torch.nn.functional.pad(part.ids_NE, (0, most - part.ids_NE.shape[1])),
            torch.nn.functional.pad(
                part.log_targets_NE, (0, most - part.ids_NE.shape[1]), value=-torch.inf
            ),
        )
        for part in parts
    ]
    return SparseTargets(
        ids_NE=torch.cat([ids_NE for ids_NE, _ in padded]),
        log_targets_NE=torch.cat([log_t_NE for _, log_t_NE in padded]),
        log_rest_N=torch.cat([part.log_rest_N for part in parts]),
        tail=parts[0].tail,
    )
