"""What comparing a unit of windows with the live teacher takes, and what comes of it.

Whole vocabularies exist for few positions at once: the output head makes as many logits as in a
build, and so many of these are compared at a time that float64 copies of them are small beside
that. Memory depends on neither the length nor the number of windows.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch

from softtargets.capture.class_comparison import ClassComparison
from softtargets.capture.comparison import Comparison, rows_of
from softtargets.capture.keep.logit_chunks import COMPARING
from softtargets.capture.keep.selection import Keep, TopK
from softtargets.capture.segments import Segment
from softtargets.capture.state_comparison import StateComparison, compare_states
from softtargets.capture.teacher import Teacher
from softtargets.capture.teachers.local import LocalTeacher, check_local
from softtargets.capture.units import load_quietly
from softtargets.engines import Done, Event
from softtargets.store import Store
from softtargets.task_registry import task_of
from softtargets.window import Window

UNIT_WINDOWS = 8
"""Windows of a unit. The second live pass reads them together; in the first each is alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoredUnit:
    """A unit that was compared. Nothing of it is written: it is told to whoever asked."""

    unit: int
    num_positions: int
    vocabulary: tuple[Comparison, ...]
    """At each temperature of the grid, if the store has targets of a vocabulary."""
    classes: tuple[ClassComparison, ...]
    """One, if it has class logits."""
    states: tuple[StateComparison, ...]
    """Of the inputs of layers, if it has some."""

    def join(self, other: RescoredUnit) -> None:
        """Add what was found in another unit."""
        for own, found in zip(self.vocabulary, other.vocabulary, strict=True):
            own.join(found)
        for classes, more in zip(self.classes, other.classes, strict=True):
            classes.join(more)
        for states, rest in zip(self.states, other.states, strict=True):
            states.join(rest)


@dataclass(kw_only=True)
class RescoreJob:
    """Compares units of a store's windows with the live teacher: the `Job` of rescoring."""

    store: Store
    teacher: Teacher
    places: Sequence[int]
    """Where the windows stand in the store."""
    _is_loaded: bool = field(default=False, init=False)

    @property
    def num_units(self) -> int:
        """Return how many units the windows make."""
        return -(-len(self.places) // UNIT_WINDOWS)

    @property
    def where(self) -> str:
        """Return what messages call the store."""
        return str(self.store.location)

    @property
    def modules(self) -> Sequence[str]:
        """Return what the teacher imports when it loads."""
        return self.teacher.modules

    def for_worker(self, worker: int) -> RescoreJob:
        """Return the job with the teacher that a worker loads."""
        return replace(self, teacher=self.teacher.for_worker(worker))

    def working(self) -> AbstractContextManager[object]:
        """Hold nothing, as nothing is written; keep the loading from being shown."""
        load_quietly()
        return nullcontext()

    def places_of(self, unit: int) -> Sequence[int]:
        """Return where the windows of a unit stand in the store."""
        return self.places[unit * UNIT_WINDOWS : (unit + 1) * UNIT_WINDOWS]

    def run(self, units: Iterable[int]) -> Generator[Event]:
        """Load the teacher when it is first needed, and compare units.

        Raises:
            InputError: the teacher does not tell the logits of its whole vocabulary.
            TeacherError: it cannot be loaded.
            StoreError: the store cannot be read.
        """
        if not self._is_loaded:
            self.teacher.load()
            self._is_loaded = True
        cut = task_of(self.store.targets).capture().segments
        for unit in units:
            windows = [next(self.store.windows(one, one + 1)) for one in self.places_of(unit)]
            yield Done(
                RescoredUnit(
                    unit=unit,
                    num_positions=sum(len(window.mask_T) for window in windows),
                    vocabulary=self._vocabulary(windows, cut),
                    classes=self._classes(windows, cut),
                    states=self._states(windows, cut),
                )
            )

    def recorded(self, unit: int) -> None:
        """Return None: a unit whose process died before it told is run again."""

    def _vocabulary(
        self, windows: Sequence[Window], cut: Callable[..., list[Segment]]
    ) -> tuple[Comparison, ...]:
        """Compare distributions of the vocabulary at each temperature of the grid."""
        schema = self.store.targets
        if schema.num_classes:
            return ()
        local = check_local(self.teacher, "--rescore")
        comparisons = tuple(Comparison(schema, one) for one in schema.temperatures)
        for window, own_TD, other_TD in _live(local, windows, cut):
            targets = window.targets
            for rows, logits_CV, other_CV in _logits(local, own_TD, other_TD):
                own = rows_of(targets, rows)
                for comparison in comparisons:
                    comparison.add(own, logits_CV, other_CV)
        return comparisons

    def _classes(
        self, windows: Sequence[Window], cut: Callable[..., list[Segment]]
    ) -> tuple[ClassComparison, ...]:
        """Compare class logits, which any teacher captures whole, at temperature 1."""
        if not self.store.targets.num_classes:
            return ()
        keep = Keep(selection=TopK(), temperatures=(), label_logits=False, hidden_states=False)
        comparison = ClassComparison(self.store.targets)
        together = self.teacher.capture(cut(*windows), keep).class_logits_NC
        assert together is not None
        others = together.split([len(window.mask_T) for window in windows])
        for window, other_TC in zip(windows, others, strict=True):
            own_TC = self.teacher.capture(cut(window), keep).class_logits_NC
            assert own_TC is not None
            comparison.add(window.targets.class_logits_TC, own_TC, other_TC)
        return (comparison,)

    def _states(
        self, windows: Sequence[Window], cut: Callable[..., list[Segment]]
    ) -> tuple[StateComparison, ...]:
        """Compare the inputs of layers, which a teacher of transformers captures beside targets."""
        schema = self.store.targets
        layers = tuple(one for one in schema.features if one.layer is not None)
        if not layers:
            return ()
        comparisons = tuple(StateComparison(one) for one in layers)
        grid = schema.temperatures[:1]
        keep = Keep(selection=TopK(k=1), temperatures=grid, label_logits=False, layers=layers)
        together = self.teacher.capture(cut(*windows), keep)
        first = target = 0
        for window in windows:
            end, last = first + len(window), target + len(window.mask_T)
            others = together.slice(target, last, slice(first, end))
            compare_states(comparisons, window, self.teacher.capture(cut(window), keep), others)
            first, target = end, last
        return comparisons


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
