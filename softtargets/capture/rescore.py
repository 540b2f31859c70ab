"""Stored targets against the live teacher, beside what the teacher itself varies by.

Whole vocabularies exist for few positions at once: the output head makes as many logits as in a
build, and so many of these are compared at a time that float64 copies of them are small beside
that. Memory depends on neither the length nor the number of windows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from softtargets.capture.segments import hidden_states, segments_of
from softtargets.capture.teacher import Teacher
from softtargets.errors import InputError
from softtargets.kinds import SampleSchema, TargetSchema
from softtargets.store import Store
from softtargets.store.manifest import check_identity
from softtargets.targets import Float64, Samples, SoftTargets
from softtargets.window import Window

_HEAD_ELEMENTS = 1 << 23
"""Logits the output head makes at once of each pass: of both, as many as in a build on a CPU."""
_COMPARED_ELEMENTS = 1 << 19
"""Logits compared at once: 4 MB in float64, of which there are some ten copies."""
_LIVE_WINDOWS = 8
"""Windows of the second live pass's batches; the first has one window in each."""
_ROUNDING = 1e-4
"""How far float32 sums of a whole vocabulary may differ, in nats."""
_MOST_DEVIATIONS = 5
"""How many standard errors the draws' mean log-probability may be off: once in two million."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """How far two distributions are apart, over all positions, in nats."""

    largest: float
    """Mean over positions of the largest difference between log-probabilities of kept entries; or,
    without a head, of the difference between logsumexps."""
    kl: float
    """Mean KL over the kept entries and the tail as one bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """What was found at one temperature."""

    temperature: float
    stored: Distance
    """The store against the live teacher."""
    live: Distance
    """The live teacher against itself in batches of other windows."""
    bound: float
    """What the stored form may add to `live.largest`: a step of the logits / T."""
    truncation_kl: float | None
    """KL from the full distribution to the exact head with the tail spread evenly; None without a
    head."""
    draws_deviation: float | None
    """By how many standard errors the mean live log-probability of what was drawn is off its
    expectation; None at other temperatures than the draws', and without draws."""

    @property
    def holds(self) -> bool:
        """Return whether the store differs by no more than the teacher and the stored form do."""
        return (
            self.stored.largest <= self.live.largest + self.bound
            and abs(self.draws_deviation or 0) <= _MOST_DEVIATIONS
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoreReport:
    """What was rescored, and how it compares at each temperature of the grid."""

    num_windows: int
    num_positions: int
    temperatures: tuple[Fidelity, ...]

    @property
    def holds(self) -> bool:
        """Return whether the store agrees with the teacher at every temperature."""
        return all(one.holds for one in self.temperatures)


def rescore(
    store: Store | str | os.PathLike[str], teacher: Teacher, num_windows: int, *, seed: int = 0
) -> RescoreReport:
    """Run the teacher over random windows of a store again and compare.

    Every window is scored alone, and once more padded in batches with others: what differs between
    the two is the teacher's own rounding noise, and the store may not differ by much more.

    Raises:
        InputError: the number is not positive, or the store's targets are of another kind.
        IdentityError: teacher or tokenizer is not the store's; the message names the field.
        StoreError: the store cannot be read.
    """
    store = store if isinstance(store, Store) else Store.open(store)
    _check(store, teacher, num_windows)
    teacher.load()
    rng = np.random.default_rng(seed)
    places = sorted(rng.choice(len(store), min(num_windows, len(store)), replace=False).tolist())
    samples = store.targets.samples
    totals = {temperature: np.zeros(7) for temperature in store.targets.temperatures}
    num_positions = 0
    for start in range(0, len(places), _LIVE_WINDOWS):
        windows = [
            next(store.windows(place, place + 1)) for place in places[start : start + _LIVE_WINDOWS]
        ]
        alone = [hidden_TD for window in windows for hidden_TD in _live(teacher, [window])]
        together = _live(teacher, windows)
        for window, own_TD, other_TD in zip(windows, alone, together, strict=True):
            num_positions += len(window.packed)
            targets = window.targets
            for rows, logits_CV, other_CV in _logits(teacher, own_TD, other_TD):
                own = _rows_of(targets, rows)
                for temperature, total in totals.items():
                    total += _distances(own, samples, logits_CV, other_CV, temperature)
    return RescoreReport(
        num_windows=len(places),
        num_positions=num_positions,
        temperatures=tuple(
            _fidelity(store.targets, temperature, total, num_positions)
            for temperature, total in totals.items()
        ),
    )


def _check(store: Store, teacher: Teacher, num_windows: int) -> None:
    schema = store.targets
    if not schema.temperatures or schema.predicts != "next_token":
        raise InputError(
            str(store.location),
            expected="targets of the next token, and what the vocabulary sums to, to be compared",
            found=schema.describe(),
            next_step="Such a store cannot be rescored yet.",
        )
    if num_windows < 1:
        raise InputError(
            "--rescore",
            expected="a positive number of windows",
            found=str(num_windows),
            next_step="A hundred tell enough.",
        )
    found = {"teacher": teacher.describe(), "tokenizer": teacher.tokenizer.describe()}
    stored = {name: store.manifest.identity[name] for name in found}
    next_step = "Pass the very teacher that the store was built from."
    check_identity(stored, found, str(store.location), next_step)


def _live(teacher: Teacher, windows: Sequence[Window]) -> list[torch.Tensor]:
    """Return the last hidden states [T, D] of every window, read in one batch."""
    segments = [segment for window in windows for segment in segments_of(window)]
    with torch.inference_mode():
        hidden_ND = hidden_states(teacher, segments)
    return list(hidden_ND.split([len(window.mask_T) for window in windows]))


def _logits(
    teacher: Teacher, own_TD: torch.Tensor, other_TD: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Yield rows of a window and their float64 logits [C, V], from two passes."""
    head_rows = max(1, _HEAD_ELEMENTS // teacher.vocab_size)
    compared_rows = max(1, _COMPARED_ELEMENTS // teacher.vocab_size)
    for start in range(0, len(own_TD), head_rows):
        with torch.inference_mode():
            own_HV, other_HV = (
                teacher.logits(one[start : start + head_rows]) for one in (own_TD, other_TD)
            )
        for at in range(0, len(own_HV), compared_rows):
            parts = (one[at : at + compared_rows].cpu().double() for one in (own_HV, other_HV))
            own_CV, other_CV = parts
            yield slice(start + at, start + at + len(own_CV)), own_CV, other_CV


def _distances(
    targets: SoftTargets,
    samples: SampleSchema | None,
    logits_TV: torch.Tensor,
    other_TV: torch.Tensor,
    temperature: float,
) -> Float64:
    """Return sums over some positions of a window: stored and live largest, KLs, truncation KL.

    Then how far the draws' mean log-probability is from its expectation, and its variance.

    Args:
        targets: of these positions.
        samples: what their draws are.
        logits_TV: the live teacher's, of windows read alone.
        other_TV: its logits of windows read together.
        temperature: one of the grid.
    """
    ids_TK = torch.from_numpy(targets.ids_TK.astype(np.int64))
    full_TV = (logits_TV / temperature).log_softmax(dim=1)
    kept_TK = np.isfinite(targets.logits_TK)
    live = _buckets(full_TV, ids_TK, kept_TK)
    other = _buckets((other_TV / temperature).log_softmax(dim=1), ids_TK, kept_TK)
    stored = (
        targets.logprobs_TK(temperature).astype(np.float64),
        targets.tail_logmass_T(temperature).astype(np.float64),
    )
    entropy_T = (full_TV.exp() * full_TV.clamp(min=-1e4)).sum(dim=1).numpy()
    head_T = np.where(kept_TK, np.exp(live[0]) * live[0], 0).sum(axis=1)
    num_rest_T = full_TV.shape[1] - targets.num_entries_T
    tail_T = np.exp(live[1])
    spread_T = np.where(tail_T > 0, live[1] - np.log(np.maximum(num_rest_T, 1)), 0)
    truncation_T = entropy_T - head_T - tail_T * spread_T
    stored_T = _largest(live[0], stored[0], kept_TK)
    live_T = _largest(live[0], other[0], kept_TK)
    if targets.logsumexp_TG is not None:
        own_T, other_T = (
            (one / temperature).logsumexp(dim=1).numpy() for one in (logits_TV, other_TV)
        )
        stored_T = np.abs(targets.logsumexp_T(temperature) - own_T)
        live_T = np.abs(other_T - own_T)
    deviation = variance = 0.0
    if samples is not None and samples.temperature == temperature:
        deviation, variance = _deviation(targets, full_TV, ids_TK, kept_TK, samples.num_draws)
    return np.array(
        [
            stored_T.sum(),
            live_T.sum(),
            _kl(live, stored, kept_TK).sum(),
            _kl(live, other, kept_TK).sum(),
            truncation_T.sum(),
            deviation,
            variance,
        ]
    )


def _rows_of(targets: SoftTargets, rows: slice) -> SoftTargets:
    """Return what some positions are compared by; label, classes and features are left out."""
    samples = targets.samples
    if samples is not None:
        ends_T = np.concatenate([[0], np.cumsum(samples.num_samples_T)])
        drawn = slice(ends_T[rows.start], ends_T[rows.stop])
        samples = Samples(
            num_samples_T=samples.num_samples_T[rows],
            ids_S=samples.ids_S[drawn],
            counts_S=samples.counts_S[drawn],
        )
    logsumexp_TG = targets.logsumexp_TG
    return SoftTargets(
        ids_TK=targets.ids_TK[rows],
        logits_TK=targets.logits_TK[rows],
        num_entries_T=targets.num_entries_T[rows],
        tail_mass_TG=targets.tail_mass_TG[rows],
        temperatures=targets.temperatures,
        logsumexp_TG=None if logsumexp_TG is None else logsumexp_TG[rows],
        samples=samples,
    )


def _deviation(
    targets: SoftTargets,
    logprobs_TV: torch.Tensor,
    ids_TK: torch.Tensor,
    kept_TK: np.ndarray,
    num_draws: int,
) -> tuple[float, float]:
    """Return how far draws are off, summed over positions, and the variance of that.

    It is the mean log-probability of what was drawn, less its expectation under what can be drawn.
    """
    assert targets.samples is not None
    num_samples_T = targets.samples.num_samples_T
    has_draws_T = torch.from_numpy(num_samples_T > 0)
    weights_TV = logprobs_TV.exp()
    for row, (ids_K, kept_K) in enumerate(zip(ids_TK, kept_TK, strict=True)):
        weights_TV[row, ids_K[torch.from_numpy(kept_K)]] = 0
    weights_TV /= weights_TV.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    logs_TV = logprobs_TV.clamp(min=-1e4)
    mean_T = (weights_TV * logs_TV).sum(dim=1)
    variance_T = (weights_TV * logs_TV**2).sum(dim=1) - mean_T**2
    rows_S = torch.from_numpy(np.repeat(np.arange(len(num_samples_T)), num_samples_T))
    drawn_S = logs_TV[rows_S, torch.from_numpy(targets.samples.ids_S.astype(np.int64))]
    counts_S = torch.from_numpy(targets.samples.counts_S.astype(np.float64))
    drawn = float((counts_S * drawn_S).sum()) / num_draws
    expected = float(mean_T[has_draws_T].sum())
    return drawn - expected, float(variance_T[has_draws_T].sum()) / num_draws


def _buckets(
    logprobs_TV: torch.Tensor, ids_TK: torch.Tensor, kept_TK: np.ndarray
) -> tuple[Float64, Float64]:
    """Return log-probabilities of the kept entries [T, K] and of the rest together [T]."""
    entries_TK = logprobs_TV.gather(1, ids_TK).masked_fill(~torch.from_numpy(kept_TK), -torch.inf)
    rest_TV = logprobs_TV.clone()
    for row, (ids_K, kept_K) in enumerate(zip(ids_TK, kept_TK, strict=True)):
        rest_TV[row, ids_K[torch.from_numpy(kept_K)]] = -torch.inf
    return entries_TK.numpy(), rest_TV.logsumexp(dim=1).numpy()


def _largest(one_TK: Float64, other_TK: Float64, kept_TK: np.ndarray) -> Float64:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(kept_TK, np.abs(one_TK - other_TK), 0).max(axis=1, initial=0))


def _kl(
    one: tuple[Float64, Float64], other: tuple[Float64, Float64], kept_TK: np.ndarray
) -> Float64:
    with np.errstate(invalid="ignore"):
        head_T = np.where(kept_TK, np.exp(one[0]) * (one[0] - other[0]), 0).sum(axis=1)
        has_tail_T = np.isfinite(one[1]) & np.isfinite(other[1])
        tail_T = np.where(has_tail_T, np.exp(one[1]) * (one[1] - other[1]), 0)
    return np.asarray(head_T + tail_T)


def _fidelity(
    schema: TargetSchema, temperature: float, sums: Float64, num_positions: int
) -> Fidelity:
    stored, live, stored_kl, live_kl, truncation = (sums[:5] / num_positions).tolist()
    deviation, variance = sums[5:].tolist()
    head, samples = schema.head, schema.samples
    has_draws = samples is not None and samples.temperature == temperature
    step = 0.0 if head is None else head.step or 0.0
    return Fidelity(
        temperature=temperature,
        stored=Distance(largest=stored, kl=stored_kl),
        live=Distance(largest=live, kl=live_kl),
        bound=step / temperature + _ROUNDING,
        truncation_kl=None if head is None else truncation,
        draws_deviation=deviation / max(variance, _ROUNDING) ** 0.5 if has_draws else None,
    )
