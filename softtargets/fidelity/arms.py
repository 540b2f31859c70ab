"""The comparison of students: which targets, over which seeds, and how sure the result is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from softtargets.capture.keep.selection import (
    Draws,
    Hybrid,
    Sampled,
    Selection,
    Threshold,
    TopK,
)
from softtargets.fidelity.budget import TAILS, Storage, fit_to_budget
from softtargets.fidelity.reconstruction import candidate
from softtargets.fidelity.sample import TeacherSample, bytes_per_token
from softtargets.fidelity.students import (
    MEASURES,
    Loss,
    Recipe,
    evaluate,
    log_probabilities,
    online_loss,
    stored_loss,
    train_student,
)
from softtargets.targets import Float64
from softtargets.train.sparse import Tail

_RESAMPLES = 2000
_BUDGET_POSITIONS = 1024
_DETECTABLE = 2.8
"""Standard errors between two means that a test at 5% finds four times in five."""
CE, ONLINE, HIDDEN = "cross-entropy", "full, online", "full, from hidden states"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to train students."""

    name: str
    group: str
    """What it is compared within: a number of bytes, or of entries."""
    bytes_per_token: float | None
    """None when nothing is stored."""
    loss: Loss | Sequence[Loss]
    """If there are several, one for each epoch in turn."""

    @property
    def key(self) -> str:
        """Return a name that no other arm has."""
        return f"{self.group}: {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """What the students of an arm have learned, means over seeds and held-out windows."""

    name: str
    group: str
    bytes_per_token: float | None
    measures: dict[str, float]
    gap_closed: float
    """Share of the way from plain cross-entropy to full distillation, in KL to the teacher."""
    low: float
    high: float
    """95% bootstrap interval of that, over seeds and windows."""
    detectable: float
    """Smallest difference of that share from full distillation that would be seen."""


def arms(sample: TeacherSample, budgets: Sequence[float], k: int) -> Iterator[Arm]:
    """Yield the arms: the two ends, then every kind of target at equal bytes and at equal k."""
    chosen: list[tuple[str, str, Selection, Tail]] = []
    few = sample.first(_BUDGET_POSITIONS)
    for budget in budgets:
        group = f"{budget:g} bytes"
        for kind in TAILS:
            found = fit_to_budget(few, kind, budget, Storage())
            if found is not None:
                chosen += [(name, group, found[0], tail) for name, tail in _readings(found[0])]
    equal: list[Selection] = [
        TopK(k=k),
        Sampled(draws=Draws(num=round(2.7 * k))),
        Hybrid(k=k // 2, draws=Draws(num=k // 2)),
        Threshold(draws=Draws(num=2 * k)),
    ]
    for selection in equal:
        chosen += [(name, f"{k} entries", selection, tail) for name, tail in _readings(selection)]
    windows = sample.capture({str(one): one for _, _, one, _ in chosen})
    labels = windows[str(equal[0])]
    hidden_windows, head = sample.capture_hidden_states()
    ends: dict[str, tuple[float | None, Loss]] = {
        CE: (None, stored_loss(labels, "bucket", ce_weight=1.0)),
        ONLINE: (None, online_loss(sample)),
        HIDDEN: (
            bytes_per_token(hidden_windows),
            stored_loss(hidden_windows, "full", teacher_head=head),
        ),
    }
    for name, (own_bytes, loss) in ends.items():
        yield Arm(name=name, group="", bytes_per_token=own_bytes, loss=loss)
    for name, group, selection, tail in chosen:
        own = windows[str(selection)]
        size = bytes_per_token(own)
        yield Arm(name=name, group=group, bytes_per_token=size, loss=stored_loss(own, tail))


def _readings(selection: Selection) -> list[tuple[str, Tail]]:
    tails: tuple[Tail, ...] = ("renormalize", "bucket") if selection.draws is None else ("sampled",)
    return [(candidate(selection, tail).name, tail) for tail in tails]


def frozen_noise_arms(sample: TeacherSample, num_draws: int, num_epochs: int) -> list[Arm]:
    """Return arms whose draws are the same in every epoch, and fresh in every epoch.

    The draws are independent, systematic, and at a threshold.
    """
    group = f"{num_epochs} epochs"
    found: list[Arm] = []
    for name, selection in (
        ("draws", Sampled(draws=Draws(num=num_draws))),
        ("independent draws", Sampled(draws=Draws(num=num_draws, design="independent"))),
        ("threshold draws", Threshold(draws=Draws(num=num_draws))),
    ):
        selections: dict[str, Selection] = {
            str(seed): replace(selection, draws=replace(selection.draws, seed=seed))
            for seed in range(num_epochs)
        }
        windows = sample.capture(selections)
        losses = [stored_loss(windows[seed], "sampled") for seed in selections]
        size = bytes_per_token(windows["0"])
        found += [
            Arm(name=f"cached {name}", group=group, bytes_per_token=size, loss=losses[0]),
            Arm(name=f"fresh {name}", group=group, bytes_per_token=None, loss=losses),
        ]
    return found


def compare_students(
    compared: Sequence[Arm],
    sample: TeacherSample,
    held_out: TeacherSample,
    recipe: Recipe,
    num_seeds: int,
    *,
    on_student: Callable[[str, int], None] = lambda *_: None,
) -> dict[str, Float64]:
    """Return the measures [S, W, M] of every arm's students, for S seeds, by group and name."""
    found: dict[str, Float64] = {}
    log_probs = log_probabilities(held_out)
    for arm in compared:
        own = []
        for seed in range(num_seeds):
            student = train_student(sample, arm.loss, recipe, seed)
            own.append(evaluate(student, held_out, log_probs))
            on_student(arm.name, seed)
        found[arm.key] = np.stack(own)
    return found


def judge(compared: Sequence[Arm], measured: dict[str, Float64]) -> list[ArmResult]:
    """Return the results, with the share of the gap between the first two arms and its interval."""
    rng = np.random.default_rng(0)
    worst_SW, best_SW = (measured[arm.key][..., 1] for arm in compared[:2])
    num_seeds, num_windows = worst_SW.shape
    seeds_RS = rng.integers(num_seeds, size=(_RESAMPLES, num_seeds))
    windows_RW = rng.integers(num_windows, size=(_RESAMPLES, num_windows))

    def resampled(values_SW: Float64) -> Float64:
        means_RS = np.stack([values_SW[:, chosen].mean(axis=1) for chosen in windows_RW])
        chosen_RS: Float64 = np.take_along_axis(means_RS, seeds_RS, axis=1)
        return np.asarray(chosen_RS.mean(axis=1))

    worst_R, best_R = resampled(worst_SW), resampled(best_SW)
    results = []
    for arm in compared:
        own_SWM = measured[arm.key]
        own_R = resampled(own_SWM[..., 1])
        shares_R = (worst_R - own_R) / (worst_R - best_R)
        low, high = np.quantile(shares_R, [0.025, 0.975])
        gap = worst_SW.mean() - best_SW.mean()
        results.append(
            ArmResult(
                name=arm.name,
                group=arm.group,
                bytes_per_token=arm.bytes_per_token,
                measures=dict(zip(MEASURES, own_SWM.mean(axis=(0, 1)).tolist(), strict=True)),
                gap_closed=float((worst_SW.mean() - own_SWM[..., 1].mean()) / gap),
                low=float(low),
                high=float(high),
                detectable=_DETECTABLE * float(shares_R.std()),
            )
        )
    return results
