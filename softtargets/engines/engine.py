"""What runs units, and what it tells: the protocols `Engine` and `Job`.

An engine takes units one by one, has a job run them, wherever it likes, and yields what becomes of
each. It knows neither teachers nor stores, and whoever asks it knows no processes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

MOST_ATTEMPTS = 3
"""How often a unit, or the loading of a teacher, is tried before it counts as failed."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Some windows of a unit were scored. An engine need not tell."""

    unit: int
    num_windows: int
    num_tokens: int


class Recorded(Protocol):
    """What is known of a unit that is done: of a build, the entry of its shard. It is pickled."""

    @property
    def unit(self) -> int:
        """Return which unit."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a unit makes, and its record, are durable."""

    entry: Recorded


@dataclass(frozen=True, slots=True)
class Failed:
    """A unit could not be run; others may."""

    unit: int
    error: str


Event = Scored | Done | Failed


class Job(Protocol):
    """What runs units. It is pickled to get to other processes."""

    @property
    def modules(self) -> Sequence[str]:
        """Return what other processes import before they run units, beside the job's own module."""

    @property
    def where(self) -> str:
        """Return what messages call what the units make."""

    def for_worker(self, worker: int) -> Job:
        """Return the job for one of several processes, which are numbered from 0 as they start."""

    def working(self) -> AbstractContextManager[object]:
        """Hold what another process has to hold as long as it runs units."""

    def run(self, units: Iterable[int]) -> Generator[Event]:
        """Run units, which are asked for one by one, and yield what becomes of each.

        Raises:
            SoftTargetsError: no unit can be run, for example because the disk is full.
        """

    def recorded(self, unit: int) -> Recorded | None:
        """Return the entry of a unit that is done, or None."""


class Engine(Protocol):
    """Where units run."""

    def run(self, job: Job, take: Callable[[], int | None]) -> Generator[Event]:
        """Run units until none can be had; yield each as `Done` or `Failed`.

        A unit that failed is not run again unless it is taken again. When the generator is closed,
        nothing runs any more.

        Args:
            job: runs them.
            take: returns the next unit, or None if none can be had now. After a unit failed, there
                may be one again.

        Raises:
            SoftTargetsError: no unit can be run.
        """
