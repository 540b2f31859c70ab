"""Running units in this process."""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import chain

from softtargets.engines.engine import Event, Job


class InProcess:
    """Runs units here, one after another."""

    def run(self, job: Job, take: Callable[[], int | None]) -> Generator[Event]:
        """Run units until none can be had."""
        while (unit := take()) is not None:
            yield from job.run(chain([unit], iter(take, None)))
