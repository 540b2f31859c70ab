"""Statistics of a store: one pass over its windows, or some of them, in bounded memory.

Counted are the targets that a student is trained on. A masked one is context that
was counted in the window before, or is about the first token of another document, of which the
teacher knew nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from softtargets.errors import InputError
from softtargets.report.class_statistics import ClassStatistics
from softtargets.report.distribution import Counts, Distribution, decades
from softtargets.report.facts import (
    EntropyKind,
    Facts,
    entropy_kind,
    facts_of,
    grid_of,
    has_label_logprobs,
)
from softtargets.report.shown_windows import sampled, sound
from softtargets.store import Store
from softtargets.targets import Bool, SoftTargets, TargetSchema
from softtargets.window import Window

TAIL_EDGES = decades(-9, 0, 4)
"""A tail mass below 10^-9 is hardly more than the rounding of float32 sums."""
SURPRISE_EDGES = np.linspace(0, 16, 33)
"""Nats; 16 is a probability of 10^-7."""
ENTROPY_BINS = 32
RANK_EDGES = (0, 1, 2, 5, 10, 20, 50, 100, 1000)
"""Where the classes of label ranks begin; rank 0 is the teacher's first choice."""


@dataclass(slots=True)
class Sums:
    """Sums over the targets of some windows."""

    num_windows: int = 0
    num_targets: int = 0
    num_trained: int = 0
    num_labelled: int = 0
    """Of these, how many have a label."""
    num_top: int = 0
    tail_mass_G: list[float] = field(default_factory=list)
    label_logprob_G: list[float] = field(default_factory=list)

    def add(self, other: Sums) -> None:
        """Add the sums of other windows."""
        self.num_windows += other.num_windows
        self.num_targets += other.num_targets
        self.num_trained += other.num_trained
        self.num_labelled += other.num_labelled
        self.num_top += other.num_top
        self.tail_mass_G = _added(self.tail_mass_G, other.tail_mass_G)
        self.label_logprob_G = _added(self.label_logprob_G, other.label_logprob_G)


@dataclass(slots=True, kw_only=True)
class Statistics:
    """What the targets of a store are like; what its kind does not tell is empty or None.

    Lists have one element for each temperature of `temperatures`.
    """

    schema: TargetSchema
    temperatures: tuple[float, ...]
    all_windows: int
    """How many windows the store has; `total.num_windows` were read."""
    entropy_kind: EntropyKind | None
    tail_mass: list[Distribution]
    entropy: list[Distribution]
    surprise: list[Distribution]
    """-log p of the label."""
    label_ranks: Counts | None
    """How many labels are in each class of `RANK_EDGES`."""
    num_entries: Counts | None
    """How many targets have 0, 1, 2, ... entries in their head."""
    num_drawn: Counts | None
    """How many targets have 0, 1, 2, ... different ids drawn."""
    has_top: bool
    """Whether it is known when the label is the teacher's first choice."""
    classes: ClassStatistics | None = None
    """What is known of classes; None of a store without."""
    total: Sums = field(default_factory=Sums)
    sources: dict[str, Sums] = field(default_factory=dict)
    """By the name of the input file, in the order of the corpus."""

    def add(self, window: Window) -> None:
        """Count a window's targets."""
        targets, mask_T = window.targets, window.mask_T
        facts = facts_of(window, self.schema, targets)
        own = _sums(facts, mask_T)
        self.total.add(own)
        self.sources.setdefault(window.source, Sums()).add(own)
        self._count(facts, mask_T)
        self._count_stored(targets, mask_T)
        if self.classes is not None:
            self.classes.add(window)

    def _count(self, facts: Facts, mask_T: Bool) -> None:
        labelled_T = _labelled(facts, mask_T)
        for index in range(len(self.temperatures)):
            if facts.tail_mass_TG is not None:
                self.tail_mass[index].add(facts.tail_mass_TG[mask_T, index])
            if facts.entropy_TG is not None:
                self.entropy[index].add(facts.entropy_TG[mask_T, index])
            if facts.label_logprob_TG is not None:
                # float32 rounds a probability of 1 to a little more.
                surprise = np.maximum(-facts.label_logprob_TG[labelled_T, index], 0)
                self.surprise[index].add(surprise)
        if facts.label_rank_T is not None and self.label_ranks is not None:
            places = np.searchsorted(RANK_EDGES, facts.label_rank_T[labelled_T], side="right") - 1
            self.label_ranks += np.bincount(places, minlength=len(RANK_EDGES))

    def _count_stored(self, targets: SoftTargets, mask_T: Bool) -> None:
        if self.num_entries is not None:
            own = targets.num_entries_T[mask_T]
            self.num_entries += np.bincount(own, minlength=len(self.num_entries))
        if self.num_drawn is not None and targets.samples is not None:
            own = targets.samples.num_samples_T[mask_T]
            self.num_drawn += np.bincount(own, minlength=len(self.num_drawn))


def measure(store: Store, most_windows: int) -> Statistics:
    """Return the statistics of a store, or of `most_windows` windows evenly spread over it.

    One row group is in memory at a time.

    Raises:
        InputError: `most_windows` is not positive.
        CorruptionError, FormatError or IdentityError: a shard is not what was committed.
    """
    if most_windows < 1:
        raise InputError(
            "measure, most_windows",
            expected="a positive number of windows",
            found=f"{most_windows}",
            next_step="Pass how many windows to read at most.",
        )
    statistics = _empty(store.targets, len(store))
    for window in sampled(store, most_windows):
        statistics.add(sound(store, window))
    return statistics


def _empty(schema: TargetSchema, all_windows: int) -> Statistics:
    grid = grid_of(schema)
    has_tail = schema.head is not None
    highest = float(np.log(schema.num_labels))
    if schema.problem == "multi_label":
        highest = schema.num_classes * float(np.log(2))
    kind = entropy_kind(schema)
    return Statistics(
        schema=schema,
        temperatures=grid,
        classes=ClassStatistics(schema=schema) if schema.num_classes else None,
        all_windows=all_windows,
        entropy_kind=kind,
        tail_mass=[Distribution(TAIL_EDGES) for _ in grid if has_tail],
        entropy=[Distribution(_entropy_edges(highest)) for _ in grid if kind is not None],
        surprise=[Distribution(SURPRISE_EDGES) for _ in grid if has_label_logprobs(schema)],
        label_ranks=np.zeros(len(RANK_EDGES), np.int64) if _has_ranks(schema) else None,
        num_entries=None
        if schema.head is None
        else np.zeros(schema.head.max_entries + 1, np.int64),
        num_drawn=None
        if schema.samples is None
        else np.zeros(schema.samples.num_draws + 1, np.int64),
        has_top=_has_ranks(schema)
        or (schema.head is not None and schema.has_labels)
        or (schema.problem == "multi_label" and schema.label_values),
    )


def _entropy_edges(highest: float) -> np.ndarray:
    """Return edges from 0 to the entropy of an even distribution, in bins of a round width."""
    width = next(
        one for one in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1) if one * ENTROPY_BINS >= highest
    )
    return np.arange(int(np.ceil(highest / width)) + 1) * width


def _has_ranks(schema: TargetSchema) -> bool:
    return schema.label_logits or (schema.num_classes > 0 and schema.label_ids)


def _labelled(facts: Facts, mask_T: Bool) -> Bool:
    """Return which targets are trained on and have a label."""
    return mask_T if facts.is_labelled_T is None else mask_T & facts.is_labelled_T


def _sums(facts: Facts, mask_T: Bool) -> Sums:
    tail_TG, label_TG = facts.tail_mass_TG, facts.label_logprob_TG
    labelled_T = _labelled(facts, mask_T)
    return Sums(
        num_windows=1,
        num_targets=len(mask_T),
        num_trained=int(mask_T.sum()),
        num_labelled=int(labelled_T.sum()),
        num_top=0 if facts.is_top_T is None else int(facts.is_top_T[labelled_T].sum()),
        tail_mass_G=[] if tail_TG is None else tail_TG[mask_T].sum(0, np.float64).tolist(),
        label_logprob_G=[] if label_TG is None else label_TG[labelled_T].sum(axis=0).tolist(),
    )


def _added(left: Sequence[float], right: Sequence[float]) -> list[float]:
    return [one + other for one, other in zip(left, right, strict=True)] if left else list(right)
