"""The actors of a Ray cluster that run units, and which units each has.

Ray itself starts nothing again, as only records tell what is done: an actor may die after its unit
was recorded. An actor that does not answer counts as dead. What it writes when it wakes changes
nothing, since a unit is recorded once.
"""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from softtargets.engines.engine import MOST_ATTEMPTS, Done, Event, Failed, Job
from softtargets.errors import SoftTargetsError, StoreError, error_text
from softtargets.places.waiting import Waiting
from softtargets.texts import plural, shortened

PERIOD_SECONDS = 10.0
"""Between two questions whether an actor is alive."""
_MISSED = 3
"""Periods without an answer after which an actor counts as dead."""
_LOOK_SECONDS = 1.0
"""How long the driver hears nothing before it looks after the actors."""
_END_SECONDS = 10.0
"""How long actors have to end."""
_IN_FLIGHT = 2
"""Units of an actor: one that it reads, and the next."""
CALLS = _IN_FLIGHT + 2
"""Of an actor, answered at a time: its units, whether it has loaded, whether it is alive."""
_MOST_SHOWN = 400
"""Characters of what Ray says."""
_OTHERS = "other work there, if it has so many CPUs and GPUs at all ('ray status' tells)"


@dataclass(slots=True, eq=False)
class _Worker:
    """An actor, and what it was asked and has not answered."""

    actor: Any
    loading: Any
    """The answer that is to come when its teacher is loaded; None when it has come."""
    units: dict[Any, int] = field(default_factory=dict)
    """The units that it was given, by the answer that is to come; the oldest first."""
    question: Any = None
    """The answer that is to come if it is alive."""
    asked: float = field(default_factory=time.monotonic)
    """When it was asked that last, by the driver's own clock; at first, when it was wanted."""
    name: str = ""
    """What it calls itself; nothing before it has started."""


class ActorPool:
    """The workers, and the units that they are given.

    Args:
        job: runs the units.
        take: returns the next unit, or None.
        unit: the first, which was taken.
        actor_class: makes actors of `UnitRunner`.
    """

    def __init__(
        self, job: Job, take: Callable[[], int | None], unit: int, actor_class: Any
    ) -> None:
        import ray

        self._job = job
        self._make_job = partial(pickle.loads, ray.cloudpickle.dumps(job))
        self._take_new = take
        self._stock = deque([unit])
        """Units to be run next."""
        self._is_dry = False
        """Whether no other can be had before one fails."""
        self._suspects: set[int] = set()
        """Units on whose worker others died with them: each is run by itself the next time."""
        self._actor_class = actor_class
        self._num_idle_deaths = 0
        """Workers in a row that died before they had loaded."""
        self._num_started = 0
        self._workers: list[_Worker] = []
        self._answers: dict[Any, _Worker] = {}
        """Whom the answers come from that are waited for."""
        self._waiting: tuple[_Worker, Waiting] | None = None
        self._looked = time.monotonic()

    def run(self, num_workers: int) -> Iterator[Event]:
        """Run until no unit can be had."""
        import ray

        while True:
            self._start_where_needed(num_workers)
            self._give()
            if not self._stock and not any(worker.units for worker in self._workers):
                return
            found, _ = ray.wait(list(self._answers), timeout=_LOOK_SECONDS)
            for answer in found:
                yield from self._hear(answer)
            if time.monotonic() - self._looked >= _LOOK_SECONDS:
                yield from self._look()

    def stop(self) -> None:
        """End every worker that is still there."""
        import ray

        ends = [self._kill(worker) for worker in self._workers]
        if ends:
            ray.wait(ends, num_returns=len(ends), timeout=_END_SECONDS)

    def _kill(self, worker: _Worker) -> Any:
        """End a worker, and return the answer that comes when it has ended."""
        import ray

        ray.kill(worker.actor)
        return worker.actor.name.remote()

    def _holds(self, num_units: int) -> bool:
        """Take units until so many are in stock; return whether there are."""
        while len(self._stock) < num_units and not self._is_dry:
            unit = self._take_new()
            self._is_dry = unit is None
            if unit is not None:
                self._stock.append(unit)
        return len(self._stock) >= num_units

    def _start_where_needed(self, num_workers: int) -> None:
        """Start workers for units that no idle one will take."""
        num_idle = sum(not worker.units for worker in self._workers)
        while len(self._workers) < num_workers and self._holds(num_idle + 1):
            actor = self._actor_class.remote(self._make_job, self._num_started, str(Path.cwd()))
            self._num_started += 1
            worker = _Worker(actor, loading=actor.load.remote())
            self._workers.append(worker)
            self._answers[worker.loading] = worker
            num_idle += 1

    def _give(self) -> None:
        """Give each worker that has loaded a unit, and a second that no other worker waits for."""
        num_loading = sum(worker.loading is not None for worker in self._workers)
        for num_units in range(_IN_FLIGHT):
            num_kept = num_loading if num_units else 0
            for worker in self._workers:
                is_meant = worker.loading is None and len(worker.units) == num_units
                if is_meant and self._holds(num_kept + 1):
                    self._give_next(worker)

    def _give_next(self, worker: _Worker) -> None:
        unit = self._stock[0]
        if worker.units and self._suspects & {unit, *worker.units.values()}:
            return
        self._stock.popleft()
        answer = worker.actor.run.remote(unit)
        worker.units[answer] = unit
        self._answers[answer] = worker

    def _hear(self, answer: Any) -> Iterator[Event]:
        """Take an answer of a worker, or notice that it died."""
        import ray

        worker = self._answers.pop(answer, None)
        if worker is None:  # It was buried just now.
            return
        try:
            outcome = ray.get(answer)
        except ray.exceptions.RayError as error:
            yield from self._bury(worker, _reason(error))
            return
        if isinstance(outcome, SoftTargetsError):
            raise outcome
        if answer == worker.question:
            worker.question, worker.name = None, outcome
        elif answer == worker.loading:
            worker.loading, self._num_idle_deaths = None, 0
        elif outcome is not None:
            self._suspects.discard(worker.units.pop(answer))
            yield from self._passed_on(outcome)
            if isinstance(outcome, Failed):
                yield from self._bury(worker, None)

    def _passed_on(self, event: Event) -> Iterator[Event]:
        yield event
        # Whoever heard of a failure may want to have the unit run again.
        self._is_dry &= not isinstance(event, Failed)

    def _bury(self, worker: _Worker, reason: str | None) -> Iterator[Event]:
        """Give what a worker left undone to others.

        Args:
            worker: whose process is gone, or is of no use any more.
            reason: that it died of; None if a unit failed, of which its other units know nothing.
        """
        self._kill(worker)
        self._workers.remove(worker)
        for answer in (worker.loading, worker.question, *worker.units):
            self._answers.pop(answer, None)
        if worker.loading is not None:
            self._note_idle_death(reason or "")
        left = []
        for unit in worker.units.values():
            entry = self._job.recorded(unit)
            if entry is None:
                left.append(unit)
            else:
                yield Done(entry)
        if reason is None:
            self._stock.extendleft(reversed(left))
            return
        if len(left) > 1:
            self._suspects.update(left)
        for unit in left:
            yield from self._passed_on(Failed(unit, reason))

    def _note_idle_death(self, reason: str) -> None:
        self._num_idle_deaths += 1
        if self._num_idle_deaths >= MOST_ATTEMPTS:
            raise StoreError(
                self._job.where,
                expected="workers that load the teacher",
                found=reason,
                next_step="Look for the reason in the logs of Ray, for example memory, or other "
                "software on that node.",
            )

    def _look(self) -> Iterator[Event]:
        """Ask the workers whether they are alive, and bury those that have not answered."""
        self._looked = time.monotonic()
        for worker in list(self._workers):
            if worker.question is None:
                if self._looked - worker.asked >= PERIOD_SECONDS or not worker.name:
                    self._ask(worker)
            # One that loads may not hear: a library that is opened keeps all threads waiting.
            elif worker.loading is None and self._is_lost(worker):
                silence = f"did not answer for {_MISSED * PERIOD_SECONDS:g} seconds"
                yield from self._bury(worker, f"{worker.name} {silence}")
        self._tell_of_silent()

    def _ask(self, worker: _Worker) -> None:
        worker.question = worker.actor.name.remote()
        worker.asked = time.monotonic()
        self._answers[worker.question] = worker

    def _is_lost(self, worker: _Worker) -> bool:
        import ray

        if time.monotonic() - worker.asked < _MISSED * PERIOD_SECONDS:
            return False
        # If this process was stopped itself, the answer has come meanwhile, and is heard of now.
        answered, _ = ray.wait([worker.question], timeout=_LOOK_SECONDS)
        return not answered

    def _tell_of_silent(self) -> None:
        """Tell of an actor that has not started for long, or does not answer while it loads."""
        long_ago = self._looked - _MISSED * PERIOD_SECONDS
        silent = [one for one in self._workers if one.question and one.asked < long_ago]
        if not silent:
            self._waiting = None
            return
        first, num_missing = silent[0], sum(not one.name for one in silent)
        if self._waiting is None or self._waiting[0] is not first:
            what = f"room for {plural(num_missing, 'actor')} in the cluster of Ray"
            if first.name:
                what = "an actor that loads its teacher"
            self._waiting = first, Waiting(self._job.where, what, lambda: first.name or _OTHERS)
        self._waiting[1].tell()


def _reason(error: Exception) -> str:
    """Return why a worker is of no use any more: what it raised, or how Ray begins and ends."""
    cause = getattr(error, "cause", None)
    if cause is not None:
        return f"{type(cause).__name__}: {error_text(cause)}"
    first, *_, last = str(error).strip().splitlines() * 2
    return shortened(first if last == first else f"{first} {last}", _MOST_SHOWN)
