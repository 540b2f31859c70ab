"""Gradients on sparse targets against those on full ones: what averages out, and what does not.

A biased target turns the gradient of however large a batch; the noise of an unbiased one falls as
1 / sqrt(n). The student here is the teacher made too flat (its logits halved), reading some random
features of the teacher's hidden states; the gradient is that of its output head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch

from softtargets.capture.keep.sampling import draw, spread, starts, uniforms
from softtargets.capture.keep.selection import Values
from softtargets.capture.keep.threshold import draw_once
from softtargets.capture.keep.weight_blocks import WeightBlocks
from softtargets.fidelity.reconstruction import Candidate, targets_of
from softtargets.fidelity.sample import TeacherSample
from softtargets.train.divergences import ForwardKL
from softtargets.train.fused import loss_and_gradient
from softtargets.train.losses import LogitsObjective
from softtargets.train.sparse import SparseTargets

_FEATURES = 64
_FLATTER = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientError:
    """A sparse gradient beside the full one, over so many positions."""

    name: str
    num_positions: int
    degrees: float
    """Angle between the two."""
    norm_ratio: float
    """Length of the sparse one to that of the full one."""
    difference: float
    """Length of their difference for each position: noise falls as 1 / sqrt(n), a bias stays."""


def compare_gradients(
    sample: TeacherSample,
    chosen: Sequence[Candidate],
    sizes: Sequence[int],
    *,
    temperature: float = 1.0,
    temperatures: tuple[float, ...] = (1.0,),
    values: Values = "steps",
) -> list[GradientError]:
    """Compare gradients summed over the first positions of the sample, for rising sizes.

    Targets are captured in a grid of temperatures, and compared at one of them.
    """
    selections = {str(one.selection): one.selection for one in chosen}
    windows = sample.capture(selections, temperatures, values)
    flat = {
        one.name: targets_of(windows[str(one.selection)], one.tail, temperature) for one in chosen
    }
    projection_DF = _projection(sample.hidden_ND.shape[1])
    sums = {name: torch.zeros((sample.teacher.vocab_size, _FEATURES)) for name in (*flat, "")}
    results: list[GradientError] = []
    done = 0
    for rows, logits_CV in sample.chunks():
        features_CF = sample.hidden_ND[rows].float().cpu() @ projection_DF
        # A size may end within a chunk.
        ends = [size for size in sizes if done < size <= rows.stop]
        for start, stop in zip([done, *ends], [*ends, rows.stop], strict=True):
            if start == stop:
                continue
            part = slice(start - rows.start, stop - rows.start)
            # Of the loss at T, up to the constant T: that of the scaled logits at 1.
            own_CV = logits_CV[part].cpu() / temperature
            _add_gradients(flat, sums, own_CV, features_CF[part], start)
            done = stop
            if stop in sizes:
                results += [
                    _error(name, stop, sums[name].flatten(), sums[""].flatten()) for name in flat
                ]
    return results


def _projection(width: int) -> torch.Tensor:
    """Return what makes random features [D, F] of hidden states."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((width, _FEATURES), generator=generator) / math.sqrt(width)


def _add_gradients(
    flat: Mapping[str, SparseTargets],
    sums: Mapping[str, torch.Tensor],
    logits_CV: torch.Tensor,
    features_CF: torch.Tensor,
    start: int,
) -> None:
    student_CV = _FLATTER * logits_CV
    full_CV = student_CV.softmax(dim=1) - logits_CV.softmax(dim=1)
    sums[""].addmm_(full_CV.T, features_CF)
    for name, targets in flat.items():
        count = len(logits_CV)
        objective = LogitsObjective(
            places_N=torch.arange(count),
            labels_N=torch.zeros(count, dtype=torch.int64),
            targets=targets.rows(slice(start, start + count)),
            divergence=ForwardKL(),
            temperature=1.0,
            weights_N=torch.ones(count),
            ce_weight=None,
        )
        sums[name].addmm_(loss_and_gradient(objective, student_CV.clone())[1].T, features_CF)


def _error(name: str, num_positions: int, own: torch.Tensor, full: torch.Tensor) -> GradientError:
    # Small angles need the sine: a cosine near 1 has lost them.
    own_norm, full_norm = own.norm().item(), full.norm().item()
    apart = (own / own_norm - full / full_norm).norm().item()
    return GradientError(
        name=name,
        num_positions=num_positions,
        degrees=math.degrees(2 * math.asin(min(1.0, apart / 2))),
        norm_ratio=own_norm / full_norm,
        difference=(own - full).norm().item() / num_positions,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasTest:
    """Whether an estimator's mean over redraws is what it estimates."""

    name: str
    num_redraws: int
    largest_z: float
    """Largest deviation of a mean in its standard errors, over all directions."""
    limit: float
    """What it exceeds once in a thousand times when there is no bias."""
    is_meant_to_fail: bool

    @property
    def is_unbiased(self) -> bool:
        """Return whether no bias is seen."""
        return self.largest_z <= self.limit


class _Estimator(NamedTuple):
    """How a tail is estimated by draws at temperature 1."""

    design: Literal["independent", "systematic", "threshold"]
    k: int = 0
    """Entries beside the draws; with threshold they follow from its number."""
    temperature: float = 1.0
    """That the draws are weighed for."""
    is_normalised: bool = False


_ESTIMATORS = {
    "draws": _Estimator("independent"),
    "top 8 and draws": _Estimator("independent", 8),
    "draws, weighed anew for T = 2": _Estimator("independent", 0, 2.0),
    "top 8 and draws, weighed anew for T = 2": _Estimator("independent", 8, 2.0),
    "the same, and normalised to sum to one": _Estimator("independent", 8, 2.0, True),
    "systematic draws": _Estimator("systematic"),
    "systematic draws, weighed anew for T = 2": _Estimator("systematic", 0, 2.0),
    "threshold draws": _Estimator("threshold"),
    "threshold draws, weighed anew for T = 2": _Estimator("threshold", 0, 2.0),
}


def find_bias(
    sample: TeacherSample, *, num_draws: int = 16, num_redraws: int = 200, num_directions: int = 32
) -> list[BiasTest]:
    """Redraw and test the mean of sum_i t_hat_i d_i, for random directions d and log s.

    Independent draws from the softmax, and from the tail beside a head; systematic draws; threshold
    draws; all weighed anew for temperature 2; and that normalised to sum to one, which is biased
    and must be seen to be.
    """
    _, logits_CV = next(iter(sample.chunks()))
    logits_PV = logits_CV[:128].cpu()
    generator = torch.Generator().manual_seed(1)
    shape = (logits_PV.shape[1], num_directions)
    signs_VJ = torch.randint(0, 2, shape, generator=generator).float() * 2 - 1
    log_s_VJ = (_FLATTER * logits_PV).log_softmax(dim=1).mean(dim=0)[:, None]
    directions_VJ = torch.cat([signs_VJ, log_s_VJ], dim=1).double()
    results = []
    for name, estimator in _ESTIMATORS.items():
        z_J = _deviations(logits_PV, directions_VJ, estimator, num_draws, num_redraws)
        results.append(
            BiasTest(
                name=name,
                num_redraws=num_redraws,
                largest_z=z_J.abs().max().item(),
                limit=_normal_limit(0.001 / len(z_J)),
                is_meant_to_fail=estimator.is_normalised,
            )
        )
    return results


def _deviations(
    logits_PV: torch.Tensor,
    directions_VJ: torch.Tensor,
    estimator: _Estimator,
    num_draws: int,
    num_redraws: int,
) -> torch.Tensor:
    """Return for each direction by how many standard errors the mean estimate is off."""
    t_PV, q_PV = (logits_PV / estimator.temperature).softmax(dim=1), logits_PV.softmax(dim=1)
    is_kept_PV = torch.zeros(q_PV.shape, dtype=torch.bool)
    if estimator.design == "threshold":
        is_kept_PV = q_PV * num_draws >= 1
    num_top = max(estimator.k, int(estimator.design == "threshold"))
    is_kept_PV.scatter_(1, logits_PV.topk(num_top, dim=1).indices, True)
    t_PV, q_PV = (one.masked_fill(is_kept_PV, 0) for one in (t_PV, q_PV))
    exact_J = t_PV.double().sum(dim=0) @ directions_VJ
    estimates = []
    for seed in range(num_redraws):
        ids_PD, weights_PD = _redraw(q_PV, estimator, num_draws, seed)
        ratio_PD = t_PV.gather(1, ids_PD) / q_PV.gather(1, ids_PD)
        # Where nothing was drawn the ratio means nothing.
        weights_PD = torch.where(weights_PD > 0, weights_PD * ratio_PD, 0)
        if estimator.is_normalised:
            mass_P1 = t_PV.sum(dim=1, keepdim=True)
            weights_PD = mass_P1 * weights_PD / weights_PD.sum(dim=1, keepdim=True)
        estimates.append(
            (weights_PD.double().flatten()[:, None] * directions_VJ[ids_PD.flatten()]).sum(dim=0)
        )
    estimates_RJ = torch.stack(estimates) - exact_J
    return estimates_RJ.mean(dim=0) / (estimates_RJ.std(dim=0) / math.sqrt(num_redraws))


def _redraw(
    q_PV: torch.Tensor, estimator: _Estimator, num_draws: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids that are drawn from weights, and what each stands for, [P, D] both."""
    of = "0" * 32, 0, len(q_PV)
    if estimator.design == "threshold":
        starts_P1 = torch.from_numpy(starts(*of, seed))[:, None]
        blocks, scale_P1 = WeightBlocks(q_PV), torch.full_like(starts_P1, num_draws)
        ids_PD = draw_once(blocks, blocks.sums_NM(), scale_P1, starts_P1, num_draws)
        return ids_PD.clamp(min=0), (ids_PD >= 0).float() / num_draws
    if estimator.design == "systematic":
        uniforms_PD = spread(torch.from_numpy(starts(*of, seed))[:, None], num_draws)
    else:
        uniforms_PD = torch.from_numpy(uniforms(*of, num_draws, seed))
    ids_PD = draw(q_PV, uniforms_PD)
    return ids_PD, (q_PV.sum(dim=1, keepdim=True) / num_draws).expand(ids_PD.shape)


def _normal_limit(probability: float) -> float:
    """Return what a normal variable exceeds in size with a probability."""
    grid = np.linspace(0, 10, 100_001)
    tails = np.array([math.erfc(one / math.sqrt(2)) for one in grid])
    return float(grid[np.argmax(tails < probability)])
