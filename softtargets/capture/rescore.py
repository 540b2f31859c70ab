"""Stored targets against the live teacher, beside what the teacher itself varies by.

The windows make units, which an engine runs. Their sums are added in the order of the units, so the
report does not depend on who ran them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softtargets.capture.comparison import Fidelity
from softtargets.capture.rescore_job import RescoredUnit, RescoreJob
from softtargets.capture.state_comparison import StateFidelity
from softtargets.capture.teacher import Teacher
from softtargets.capture.teachers.local import check_local
from softtargets.engines import Done, Engine, Event, Failed, InProcess, run_all
from softtargets.engines.engine import MOST_ATTEMPTS
from softtargets.errors import InputError, StoreError
from softtargets.store import Store
from softtargets.store.same_identity import check_identity


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
    store: Store | str | os.PathLike[str],
    teacher: Teacher,
    num_windows: int,
    *,
    seed: int = 0,
    engine: Engine | None = None,
) -> RescoreReport:
    """Run the teacher over random windows of a store again and compare.

    Every window is scored alone, and once more padded in batches with others: what differs between
    the two is the teacher's own rounding noise, and the store may not differ by much more.

    Args:
        store: what is compared.
        teacher: that it was built from.
        num_windows: how many are compared, or all if there are fewer.
        seed: of the choice.
        engine: runs the teacher over eight windows at a time; by default this process does.

    Raises:
        InputError: the number is not positive, the store's targets are of another kind, or the
            teacher does not tell the logits of its whole vocabulary.
        IdentityError: teacher or tokenizer is not the store's; the message names the field.
        TeacherError: the teacher cannot be loaded.
        StoreError: the store cannot be read, or windows ended three processes.
    """
    store = store if isinstance(store, Store) else Store.open(store)
    _check(store, teacher, num_windows)
    job = RescoreJob(store=store, teacher=teacher, places=_places(store, num_windows, seed))
    return _report(job, _run(job, engine or InProcess()))


def _run(job: RescoreJob, engine: Engine) -> list[RescoredUnit]:
    """Return what came of all units, in their order."""
    found: dict[int, RescoredUnit] = {}

    def note(event: Event) -> None:
        if isinstance(event, Done):
            assert isinstance(event.entry, RescoredUnit)
            found[event.entry.unit] = event.entry

    failed = run_all(engine, job, range(job.num_units), note)
    if failed is not None:
        raise _failed(job, failed)
    return [found[unit] for unit in range(job.num_units)]


def _report(job: RescoreJob, units: Sequence[RescoredUnit]) -> RescoreReport:
    first, *others = units
    for unit in others:
        first.join(unit)
    return RescoreReport(
        num_windows=len(job.places),
        num_positions=first.num_positions + sum(unit.num_positions for unit in others),
        temperatures=(
            *(one.fidelity() for one in first.vocabulary),
            *(one.fidelity() for one in first.classes),
        ),
        features=tuple(one.fidelity() for one in first.states),
    )


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
    if not schema.num_classes:
        check_local(teacher, "--rescore")


def _failed(job: RescoreJob, event: Failed) -> StoreError:
    windows = ", ".join(str(place) for place in job.places_of(event.unit))
    return StoreError(
        job.where,
        expected="every window compared",
        found=f"windows {windows}, which failed {MOST_ATTEMPTS} times: {event.error}",
        next_step="Mend what the error names. Fewer --workers need less memory.",
    )
