"""What can be told of the teacher's distribution from what a selection keeps of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from softtargets.capture.keep.selection import (
    Draws,
    Hybrid,
    Sampled,
    Selection,
    Threshold,
    TopK,
    TopP,
    Values,
)
from softtargets.fidelity.sample import TeacherSample, bytes_per_token
from softtargets.stream.batch import BatchTargets
from softtargets.stream.collate import collate
from softtargets.train.sparse import SparseTargets, Tail, check_tail, sparse_targets
from softtargets.window import Window

_LOWEST = -1e4
"""Stands for the log of nothing, which nothing is multiplied with."""
_NOTHING = 1e-6
"""Less than float32 sums of a whole distribution are off from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A selection, and how its tail is read."""

    name: str
    selection: Selection
    tail: Tail

    def __post_init__(self) -> None:
        check_tail(self.tail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction:
    """How far a selection is from the teacher's full distribution at one temperature."""

    name: str
    temperature: float
    bytes_per_token: float
    num_entries: float
    """Mean number of ids with a probability of their own."""
    tail_mass: float
    """Mean probability outside the exact entries."""
    kl: float
    """Mean KL(full || kept) in nats; infinite where an id that is not kept has no mass."""
    total_variation: float
    """Mean over positions of half the sum of absolute differences."""
    mean_variation: float
    """The same of the mean distributions over all positions: what does not average out."""
    entropy_error: float
    """Mean absolute difference of the entropies in nats."""


def selection_name(selection: Selection) -> str:
    """Return a selection in a few words."""
    if isinstance(selection, TopP):
        return f"top p {selection.p:g} of {selection.k}"
    if isinstance(selection, Threshold):
        return f"threshold 1/{selection.draws.num}"
    parts = [f"top {selection.k}"] if selection.k else []
    if selection.draws is not None:
        design = "independent " if selection.draws.design == "independent" else ""
        parts.append(f"{selection.draws.num} {design}draws")
    return " and ".join(parts)


def candidate(selection: Selection, tail: Tail) -> Candidate:
    """Return a selection and how its tail is read, named by both."""
    name = selection_name(selection)
    if tail != "sampled":
        name += f", {'renormalised' if tail == 'renormalize' else tail}"
    return Candidate(name=name, selection=selection, tail=tail)


def candidates() -> tuple[Candidate, ...]:
    """Return the selections that are compared by default."""
    tails: tuple[Tail, ...] = ("uniform", "label", "renormalize")
    return (
        *(candidate(TopK(k=k), tail) for tail in tails for k in (8, 16, 32, 64, 128)),
        *(
            Candidate(name=f"top p {p:g}, uniform", selection=TopP(p=p), tail="uniform")
            for p in (0.9, 0.98)
        ),
        *(candidate(Sampled(draws=Draws(num=num)), "sampled") for num in (8, 32, 64, 128)),
        candidate(Sampled(draws=Draws(num=32, design="independent")), "sampled"),
        *(candidate(Threshold(draws=Draws(num=num)), "sampled") for num in (8, 17, 24, 48)),
        *(candidate(Hybrid(k=k, draws=Draws(num=k)), "sampled") for k in (4, 8, 16, 32)),
    )


def reconstruct(
    sample: TeacherSample,
    chosen: Sequence[Candidate],
    temperatures: tuple[float, ...],
    *,
    values: Values = "steps",
    as_stored: bool = False,
) -> list[Reconstruction]:
    """Compare candidates with the full distributions at each temperature.

    Each is captured at that temperature alone; as stored, in the grid of all of them.
    """
    results: list[Reconstruction] = []
    for temperature in temperatures:
        selections = {
            str(one.selection): one.selection if as_stored else _at(one.selection, temperature)
            for one in chosen
        }
        grid = temperatures if as_stored else (temperature,)
        windows = sample.capture(selections, grid, values)
        results += _reconstruct_at(sample, chosen, windows, temperature)
    return results


def _reconstruct_at(
    sample: TeacherSample,
    chosen: Sequence[Candidate],
    windows: Mapping[str, Sequence[Window]],
    temperature: float,
) -> Iterator[Reconstruction]:
    """Yield how far candidates are from the full distribution, from windows by selection."""
    sizes = {name: bytes_per_token(own) for name, own in windows.items()}
    device = sample.teacher.device
    flat = {
        one.name: targets_of(windows[str(one.selection)], one.tail, temperature, device)
        for one in chosen
    }
    totals = _compare(sample, flat, temperature)
    for one in chosen:
        total = totals[one.name]
        kl, variation, entropy = (total.sums_3 / len(sample)).tolist()
        yield Reconstruction(
            name=one.name,
            temperature=temperature,
            bytes_per_token=sizes[str(one.selection)],
            num_entries=_num_entries(flat[one.name]),
            tail_mass=_tail_mass(windows[str(one.selection)], temperature),
            kl=kl,
            total_variation=variation,
            mean_variation=0.5 * total.difference_V.abs().sum().item() / len(sample),
            entropy_error=entropy,
        )


def targets_of(
    windows: Sequence[Window],
    tail: Tail,
    temperature: float,
    device: torch.device | str = "cpu",
) -> SparseTargets:
    """Return the targets [N, E] of windows that all have the same schema, on a device."""
    batch = collate(windows).to(device)
    targets = batch.soft_targets(temperature)
    # All that is stored, trained on or not.
    places_N = torch.cat(
        [
            torch.from_numpy(window.target_positions_T).long() + row * targets.mask.shape[1]
            for row, window in enumerate(windows)
        ]
    ).to(device)
    labels = np.concatenate([window.labels_T for window in windows])
    labels_N = torch.from_numpy(labels.astype(np.int64)).to(device)
    return sparse_targets(targets, places_N, labels_N, tail)


def _at(selection: Selection, temperature: float) -> Selection:
    """Return a selection whose draws or mass are those of a temperature."""
    if isinstance(selection, TopP):
        return replace(selection, temperature=temperature)
    if selection.draws is None:
        return selection
    return replace(selection, draws=replace(selection.draws, temperature=temperature))


@dataclass(slots=True)
class _Total:
    """Sums over positions: KL, total variation, entropy error, and differences [V]."""

    sums_3: torch.Tensor
    difference_V: torch.Tensor


def _compare(
    sample: TeacherSample, flat: Mapping[str, SparseTargets], temperature: float
) -> dict[str, _Total]:
    nothing_V = torch.zeros(sample.teacher.vocab_size, device=sample.teacher.device)
    totals = {name: _Total(nothing_V.new_zeros(3).double(), nothing_V.clone()) for name in flat}
    mean_V = nothing_V.clone()
    for rows, logits_CV in sample.chunks():
        log_t_CV = (logits_CV / temperature).log_softmax(dim=1)
        t_CV = log_t_CV.exp()
        entropy_C = -(t_CV * log_t_CV.clamp(min=_LOWEST)).sum(dim=1)
        mean_V += t_CV.sum(dim=0)
        for name, targets in flat.items():
            own = targets.rows(rows)
            totals[name].sums_3 += _distances(own, t_CV, entropy_C)
            _add_probabilities(own, totals[name].difference_V)
    for total in totals.values():
        total.difference_V -= mean_V
    return totals


def _distances(targets: SparseTargets, t_CV: torch.Tensor, entropy_C: torch.Tensor) -> torch.Tensor:
    """Return sums over positions of KL, total variation and entropy error, float64 [3]."""
    ids_CE, log_kept_CE = targets.ids_NE, targets.log_targets_NE
    kept_CE = log_kept_CE.exp()
    own_CE = t_CV.gather(1, ids_CE) * (log_kept_CE > -torch.inf)
    others_C = (1 - own_CE.sum(dim=1)).clamp(min=0)
    share_C, num_others_C = _shares(targets, t_CV.shape[1])
    cross_C = (own_CE * log_kept_CE.clamp(min=_LOWEST)).sum(dim=1)
    kept_entropy_C = -(kept_CE * log_kept_CE.clamp(min=_LOWEST)).sum(dim=1)
    variation_C = (kept_CE - own_CE).abs().sum(dim=1)
    if targets.tail == "uniform":
        log_share_C = share_C.clamp(min=1e-45).log()
        cross_C = cross_C + others_C * log_share_C
        kept_entropy_C = kept_entropy_C - num_others_C * share_C * log_share_C
        is_own_CE = log_kept_CE > -torch.inf
        everywhere_C = (t_CV - share_C[:, None]).abs().sum(dim=1)
        at_own_C = ((own_CE - share_C[:, None]).abs() * is_own_CE).sum(dim=1)
        variation_C = variation_C + everywhere_C - at_own_C
    else:
        cross_C = torch.where(others_C > _NOTHING, -torch.inf, cross_C)
        variation_C = variation_C + others_C
    parts = (
        -entropy_C - cross_C,
        0.5 * variation_C,
        (kept_entropy_C - entropy_C).abs(),
    )
    return torch.stack([part.sum(dtype=torch.float64) for part in parts])


def _shares(targets: SparseTargets, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what every other id has [C], and how many there are [C]."""
    num_others_C = vocab_size - (targets.log_targets_NE > -torch.inf).sum(dim=1)
    return targets.log_rest_N.exp() / num_others_C.clamp(min=1), num_others_C


def _add_probabilities(targets: SparseTargets, sums_V: torch.Tensor) -> None:
    kept_CE = targets.log_targets_NE.exp()
    share_C1 = _shares(targets, len(sums_V))[0][:, None]
    is_own_CE = targets.log_targets_NE > -torch.inf
    sums_V += share_C1.sum()
    sums_V.scatter_add_(0, targets.ids_NE.flatten(), (kept_CE - share_C1 * is_own_CE).flatten())


def _num_entries(targets: SparseTargets) -> float:
    return (targets.log_targets_NE > -torch.inf).sum(dim=1).double().mean().item()


def _tail_mass(windows: Sequence[Window], temperature: float) -> float:
    batch = collate(windows)
    targets = batch.soft_targets(temperature)
    return targets.tail_logmass[_is_target(windows, targets)].exp().mean().item()


def _is_target(windows: Sequence[Window], targets: BatchTargets) -> torch.Tensor:
    is_target = torch.zeros_like(targets.mask)
    for row, window in enumerate(windows):
        is_target[row, torch.from_numpy(window.target_positions_T).long()] = True
    return is_target
