"""Losses over whole distributions by their definitions, in float64: what sparse ones are held to.

Shapes: N positions, V vocabulary, K kept entries, B outcomes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from softtargets.stream import BatchTargets
from softtargets.train import JSD, Divergence, ForwardKL, ReverseKL, SkewKL, SkewReverseKL
from softtargets.train.sparse import SparseTargets, Tail, sparse_targets
from tests.windows import select_in_numpy

DIVERGENCES: list[Divergence] = [
    ForwardKL(),
    ReverseKL(),
    JSD(0.0),
    JSD(0.1),
    JSD(0.5),
    JSD(0.9),
    JSD(1.0),
    SkewKL(0.1),
    SkewReverseKL(0.1),
]
SMALLEST_REST = 2.0**-24


@dataclass(frozen=True, kw_only=True)
class Case:
    """Random logits of a teacher, and what is kept of them."""

    logits_NV: torch.Tensor
    labels_N: torch.Tensor
    ids_NK: torch.Tensor
    targets: BatchTargets

    def sparse(self, tail: Tail) -> SparseTargets:
        places_N = torch.arange(len(self.labels_N))
        return sparse_targets(self.targets, places_N, self.labels_N, tail)


def make_case(logits_NV: torch.Tensor, k: int) -> Case:
    """Keep the top k of some logits, at temperature 1."""
    num_positions, vocab_size = logits_NV.shape
    labels_N = torch.arange(num_positions) * 7 % vocab_size
    chosen = select_in_numpy(logits_NV.numpy(), labels_N.numpy(), k, (1.0,))
    ids_NK = torch.from_numpy(chosen.ids_TK).long()
    return Case(
        logits_NV=logits_NV,
        labels_N=labels_N,
        ids_NK=ids_NK,
        targets=BatchTargets(
            ids=ids_NK[None],
            logprobs=torch.from_numpy(chosen.logprobs_TK())[None],
            tail_logmass=torch.from_numpy(chosen.tail_logmass_T())[None],
            mask=torch.ones((1, num_positions), dtype=torch.bool),
        ),
    )


def divergence_of(divergence: Divergence, t_NB: torch.Tensor, s_NB: torch.Tensor) -> torch.Tensor:
    """Return a divergence of distributions [N, B] by its definition."""

    def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        has_mass = p > 0
        ratio = torch.where(has_mass, p, 1).log() - torch.where(has_mass, q, 1).log()
        return (p * ratio).sum(dim=1)

    match divergence:
        case ForwardKL() | JSD(0.0):
            return kl(t_NB, s_NB)
        case ReverseKL() | JSD(1.0):
            return kl(s_NB, t_NB)
        case JSD(beta):
            m_NB = beta * t_NB + (1 - beta) * s_NB
            return beta * kl(t_NB, m_NB) + (1 - beta) * kl(s_NB, m_NB)
        case SkewKL(alpha):
            return kl(t_NB, alpha * t_NB + (1 - alpha) * s_NB)
        case SkewReverseKL(alpha):
            return kl(s_NB, alpha * s_NB + (1 - alpha) * t_NB)
    raise AssertionError


def reference(
    case: Case, divergence: Divergence, tail: Tail, student_NV: torch.Tensor
) -> torch.Tensor:
    """Return the loss [N] of a student's float64 logits by the table of the formulae."""
    t_NV = case.logits_NV.double().softmax(dim=1)
    s_NV = student_NV.softmax(dim=1)
    is_kept_NV = torch.zeros_like(t_NV, dtype=torch.bool).scatter_(1, case.ids_NK, True)
    is_kept_NV &= case.logits_NV > -torch.inf
    head_NV = t_NV * is_kept_NV
    rest_N1 = (t_NV * ~is_kept_NV).sum(dim=1, keepdim=True)
    if isinstance(divergence, ReverseKL) or divergence == JSD(1.0):
        rest_N1 = rest_N1.clamp(min=SMALLEST_REST)
    if tail == "bucket":
        outside_N1 = (s_NV * ~is_kept_NV).sum(dim=1, keepdim=True)
        student_NB = torch.cat([s_NV * is_kept_NV, outside_N1], dim=1)
        return divergence_of(divergence, torch.cat([head_NV, rest_N1], dim=1), student_NB)
    if tail == "renormalize":
        head_NV = head_NV / head_NV.sum(dim=1, keepdim=True)
    elif tail == "label":
        head_NV = head_NV.scatter_add(1, case.labels_N[:, None], rest_N1)
    else:
        num_others_N1 = (~is_kept_NV).sum(dim=1, keepdim=True).clamp(min=1)
        head_NV = head_NV + ~is_kept_NV * rest_N1 / num_others_N1
    return divergence_of(divergence, head_NV, s_NV)


def random_logits(num_positions: int, vocab_size: int, scale: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn((num_positions, vocab_size), generator=generator)


def largest_tensor(call: Callable[[], object]) -> int:
    """Return the number of elements of the largest tensor that is made during a call."""
    sizes = [0]

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            for one in result if isinstance(result, list | tuple) else [result]:
                if isinstance(one, torch.Tensor):
                    sizes.append(one.numel())
            return result

    with Record():  # type: ignore[no-untyped-call]
        call()
    return max(sizes)
