"""Stored targets against the live teacher, beside what the teacher itself varies by.

Whole vocabularies exist for few positions at once: the output head makes as many logits as in a
build, and so many of these are compared at a time that float64 copies of them are small beside
that. Memory depends on neither the length nor the number of windows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from softtargets.capture.class_comparison import ClassComparison
from softtargets.capture.comparison import Comparison, Fidelity, rows_of
from softtargets.capture.keep.logit_chunks import COMPARING
from softtargets.capture.keep.selection import Keep, TopK
from softtargets.capture.segments import Segment
from softtargets.capture.state_comparison import (
    StateComparison,
    StateFidelity,
    compare_states,
)
from softtargets.capture.teacher import Teacher
from softtargets.capture.teachers.local import LocalTeacher, check_local
from softtargets.errors import InputError
from softtargets.store import Store
from softtargets.store.same_identity import check_identity
from softtargets.task_registry import task_of
from softtargets.window import Window

_LIVE_WINDOWS = 8
"""Windows of the second live pass's batches; the first has one window in each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoreReport:
    """What was rescored, and how it compares at each temperature of the grid."""

    num_windows: int
    num_positions: int
    temperatures: tuple[Fidelity, ...]
    features: tuple[StateFidelity, ...] = ()
    """Of the inputs of layers, if the store has some."""

    @property
    def holds(self) -> bool:
        """Return whether the store agrees with the teacher at every temperature and layer."""
        return all(one.holds for one in self.temperatures) and all(
            one.holds for one in self.features
        )


def rescore(
    store: Store | str | os.PathLike[str], teacher: Teacher, num_windows: int, *, seed: int = 0
) -> RescoreReport:
    """Run the teacher over random windows of a store again and compare.

    Every window is scored alone, and once more padded in batches with others: what differs between
    the two is the teacher's own rounding noise, and the store may not differ by much more.

    Raises:
        InputError: the number is not positive, the store's targets are of another kind, or the
            teacher does not tell the logits of its whole vocabulary.
        IdentityError: teacher or tokenizer is not the store's; the message names the field.
        StoreError: the store cannot be read.
    """
    store = store if isinstance(store, Store) else Store.open(store)
    _check(store, teacher, num_windows)
    cut = task_of(store.targets).capture().segments
    places = _places(store, num_windows, seed)
    compare = _rescore_classes if store.targets.num_classes else _rescore_vocabulary
    found = compare(store, teacher, places, cut)
    return replace(found, features=_rescore_states(store, teacher, places, cut))


def _rescore_vocabulary(
    store: Store, teacher: Teacher, places: Sequence[int], cut: Callable[..., list[Segment]]
) -> RescoreReport:
    """Compare distributions of the vocabulary at each temperature of the grid."""
    local = check_local(teacher, "--rescore")
    local.load()
    comparisons = [Comparison(store.targets, one) for one in store.targets.temperatures]
    num_positions = 0
    for start in range(0, len(places), _LIVE_WINDOWS):
        group = places[start : start + _LIVE_WINDOWS]
        windows = [next(store.windows(place, place + 1)) for place in group]
        num_positions += sum(len(window.packed) for window in windows)
        for window, own_TD, other_TD in _live(local, windows, cut):
            targets = window.targets
            for rows, logits_CV, other_CV in _logits(local, own_TD, other_TD):
                own = rows_of(targets, rows)
                for comparison in comparisons:
                    comparison.add(own, logits_CV, other_CV)
    return RescoreReport(
        num_windows=len(places),
        num_positions=num_positions,
        temperatures=tuple(one.fidelity() for one in comparisons),
    )


def _rescore_states(
    store: Store, teacher: Teacher, places: Sequence[int], cut: Callable[..., list[Segment]]
) -> tuple[StateFidelity, ...]:
    """Compare the inputs of layers, which a teacher of transformers captures beside its targets."""
    layers = tuple(one for one in store.targets.features if one.layer is not None)
    if not layers:
        return ()
    teacher.load()
    comparisons = [StateComparison(one) for one in layers]
    grid = store.targets.temperatures[:1]
    keep = Keep(selection=TopK(k=1), temperatures=grid, label_logits=False, layers=layers)
    for start in range(0, len(places), _LIVE_WINDOWS):
        windows = [next(store.windows(one, one + 1)) for one in places[start:][:_LIVE_WINDOWS]]
        together = teacher.capture(cut(*windows), keep)
        first = target = 0
        for window in windows:
            end, last = first + len(window), target + len(window.mask_T)
            others = together.slice(target, last, slice(first, end))
            compare_states(comparisons, window, teacher.capture(cut(window), keep), others)
            first, target = end, last
    return tuple(one.fidelity() for one in comparisons)


def _places(store: Store, num_windows: int, seed: int) -> list[int]:
    """Return where random windows stand in a store, rising."""
    rng = np.random.default_rng(seed)
    return sorted(rng.choice(len(store), min(num_windows, len(store)), replace=False).tolist())


def _check(store: Store, teacher: Teacher, num_windows: int) -> None:
    schema = store.targets
    if not schema.temperatures and not schema.num_classes:
        raise InputError(
            str(store.location),
            expected="targets of a vocabulary and what it sums to, or class logits, to be compared",
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


def _rescore_classes(
    store: Store, teacher: Teacher, places: Sequence[int], cut: Callable[..., list[Segment]]
) -> RescoreReport:
    """Compare class logits, which any teacher captures whole, at temperature 1."""
    teacher.load()
    keep = Keep(selection=TopK(), temperatures=(), label_logits=False, hidden_states=False)
    comparison = ClassComparison(store.targets)
    num_positions = 0
    for start in range(0, len(places), _LIVE_WINDOWS):
        windows = [next(store.windows(one, one + 1)) for one in places[start:][:_LIVE_WINDOWS]]
        together = teacher.capture(cut(*windows), keep).class_logits_NC
        assert together is not None
        others = together.split([len(window.mask_T) for window in windows])
        for window, other_TC in zip(windows, others, strict=True):
            own_TC = teacher.capture(cut(window), keep).class_logits_NC
            assert own_TC is not None
            comparison.add(window.targets.class_logits_TC, own_TC, other_TC)
            num_positions += len(window.mask_T)
    return RescoreReport(
        num_windows=len(places),
        num_positions=num_positions,
        temperatures=(comparison.fidelity(),),
    )


def _live(
    teacher: LocalTeacher, windows: Sequence[Window], cut: Callable[..., list[Segment]]
) -> Iterator[tuple[Window, torch.Tensor, torch.Tensor]]:
    """Yield windows and their last hidden states [T, D], read alone and read all together."""
    together = teacher.read(cut(*windows))
    others = together.split([len(window.mask_T) for window in windows])
    for window, other_TD in zip(windows, others, strict=True):
        yield window, teacher.read(cut(window)), other_TD


def _logits(
    teacher: LocalTeacher, own_TD: torch.Tensor, other_TD: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Yield rows of a window and their float64 logits [C, V], from two passes."""
    passes = (teacher.chunks(one, COMPARING) for one in (own_TD, other_TD))
    for (rows, own_CV), (_, other_CV) in zip(*passes, strict=True):
        yield rows, own_CV.cpu().double(), other_CV.cpu().double()
