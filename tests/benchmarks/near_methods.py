"""The methods that students near the teacher are trained by, and what a target of each takes.

What the package captures is captured, and its bytes are those of a store. Systematic and threshold
draws are dense functions (`dense_draws`), and their bytes are an estimate.

Shapes: N positions, V vocabulary, E entries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from softtargets.capture.keep.sampling import uniforms
from softtargets.capture.keep.selection import Draws, Hybrid, Sampled, Selection, TopK
from softtargets.fidelity.reconstruction import targets_of
from softtargets.fidelity.sample import TeacherSample, bytes_per_token
from softtargets.train.sparse import SparseTargets, Tail
from softtargets.window import Window
from tests.benchmarks.dense_draws import as_sparse, concatenated, systematic, threshold

FULL = "full"
_DENSE = {"systematic": systematic, "threshold": threshold}
_ANCHORS = (4, 8, 16, 32, 64, 128)
"""Independent draws in the stores that sizes are estimated from."""
_STEPS_PER_NAT = 16
"""Of the logits that are kept exactly, as stores have them by default."""
_ROUNDING = 1e-6
"""More than float32 rounds the logarithm of a drawn id's weight by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """What is known of the teacher at each position: all of it, a selection, or dense draws."""

    name: str
    selection: Selection | None = None
    tail: Tail = "sampled"
    draws: str | None = None
    """One of `_DENSE`, with `num_draws`."""
    num_draws: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What a target of a method takes, means over positions; None where nothing is stored."""

    entries: float | None = None
    bytes_per_target: float | None = None
    is_estimate: bool = False


def parse_method(name: str) -> Method:
    """Return a method by its name, such as "full", "top 6", "threshold 17" or "top 16 + 16".

    Raises:
        ValueError: there is no such method.
    """
    if name == FULL:
        return Method(name=name)
    kind, _, numbers = name.partition(" ")
    sizes = [int(one) for one in numbers.split(" + ") if one.isdecimal()]
    if f"{kind} {' + '.join(map(str, sizes))}" == name:
        match kind, sizes:
            case "top", [k]:
                return Method(name=name, selection=TopK(k=k), tail="bucket")
            case "top", [k, num]:
                return Method(name=name, selection=Hybrid(k=k, draws=Draws(num=num)))
            case "independent", [num]:
                return Method(name=name, selection=Sampled(draws=Draws(num=num)))
            case (("systematic" | "threshold"), [num]):
                return Method(name=name, draws=kind, num_draws=num)
    known = "full, top K, top K + N, independent N, systematic N, threshold N"
    raise ValueError(f"method {name!r}: expected one of {known}")


def targets_by(method: Method, sample: TeacherSample, seed: int) -> SparseTargets | None:
    """Return the targets [N, E] of a sample's positions on the teacher's device; None for full."""
    if method.draws is not None:
        return _dense_targets(method, sample, seed)
    if method.selection is None:
        return None
    selection = _seeded(method.selection, seed)
    windows = sample.capture({"": selection})[""]
    return targets_of(windows, method.tail, 1.0, sample.teacher.device)


def _seeded(selection: Selection, seed: int) -> Selection:
    if isinstance(selection, Sampled | Hybrid):
        return replace(selection, draws=replace(selection.draws, seed=seed))
    return selection


def _dense_targets(method: Method, sample: TeacherSample, seed: int) -> SparseTargets:
    assert method.draws is not None
    draw = _DENSE[method.draws]
    parts_T = [uniforms(one.window_id, 0, len(one.mask_T), 1, seed) for one in sample.windows]
    u_N = torch.from_numpy(np.concatenate(parts_T)[:, 0]).to(sample.teacher.device)
    parts = []
    for rows, logits_CV in sample.chunks():
        estimates_CV = draw(logits_CV.double().softmax(dim=1), u_N[rows], method.num_draws)
        parts.append(as_sparse(estimates_CV))
    return concatenated(parts)


def measure_sizes(methods: Sequence[Method], sample: TeacherSample) -> dict[str, Size]:
    """Return the sizes of methods on a sample, by name."""
    anchors = [f"independent {num}" for num in _ANCHORS]
    wanted = [*methods, *map(parse_method, anchors)]
    selections = {one.name: one.selection for one in wanted if one.selection is not None}
    stored = {
        name: _stored_size(parse_method(name), windows, len(sample))
        for name, windows in sample.capture(selections).items()
    }
    sizes = {}
    for method in methods:
        if method.draws is not None:
            known = [stored[name] for name in anchors]
            sizes[method.name] = _estimated_size(method, sample, known)
        else:
            sizes[method.name] = stored.get(method.name, Size())
    return sizes


def _stored_size(method: Method, windows: Sequence[Window], num_targets: int) -> Size:
    num_tokens = sum(len(window) for window in windows)
    return Size(
        entries=_num_entries(targets_of(windows, method.tail, 1.0)),
        bytes_per_target=bytes_per_token(windows) * num_tokens / num_targets,
    )


def _estimated_size(method: Method, sample: TeacherSample, anchors: Sequence[Size]) -> Size:
    """Estimate bytes from stores of independent draws that have as many distinct ids.

    These have every column but the values of the ids that are kept exactly. Of those the entropy is
    added, and that of their number. Counts of independent draws, which threshold draws do not need,
    are not taken off.
    """
    targets = _dense_targets(method, sample, 0)
    entries = _num_entries(targets)
    known = np.array([(one.entries, one.bytes_per_target) for one in anchors], dtype=np.float64)
    if not known[0, 0] <= entries <= known[-1, 0]:
        raise ValueError(
            f"{method.name}: {entries:.1f} entries, beyond all that is known in stores"
        )
    num_bytes = float(np.interp(entries, known[:, 0], known[:, 1]))
    if method.draws == "threshold":
        log_t_NE = targets.log_targets_NE.cpu().double()
        is_kept_NE = log_t_NE > _ROUNDING - math.log(method.num_draws)
        steps = (log_t_NE[is_kept_NE] * _STEPS_PER_NAT).round()
        bits = _entropy(steps) * len(steps) + _entropy(is_kept_NE.sum(dim=1)) * len(sample)
        num_bytes += bits / 8 / len(sample)
    return Size(entries=entries, bytes_per_target=num_bytes, is_estimate=True)


def _num_entries(targets: SparseTargets) -> float:
    return (targets.log_targets_NE > -torch.inf).sum(dim=1).double().mean().item()


def _entropy(values: torch.Tensor) -> float:
    """Return the entropy of values in bits each, from how often each occurs."""
    shares = values.unique(return_counts=True)[1].double() / len(values)
    return float(-(shares * shares.log2()).sum())
