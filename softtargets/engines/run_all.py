"""Running units that nobody else runs meanwhile, until all are done."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import closing

from softtargets.engines.engine import MOST_ATTEMPTS, Engine, Event, Failed, Job


def run_all(
    engine: Engine,
    job: Job,
    units: Iterable[int],
    note: Callable[[Event], None] = lambda _: None,
) -> Failed | None:
    """Run units; one that fails is run again after the others.

    Args:
        engine: runs them.
        job: of the units.
        units: in order.
        note: is told of each event.

    Returns:
        The failure of a unit that failed three times, which ends everything; None if all are done.

    Raises:
        SoftTargetsError: no unit can be run.
    """
    left, attempts = deque(units), Counter[int]()
    while left:
        with closing(engine.run(job, lambda: left.popleft() if left else None)) as events:
            for event in events:
                note(event)
                if isinstance(event, Failed):
                    attempts[event.unit] += 1
                    if attempts[event.unit] == MOST_ATTEMPTS:
                        return event
                    left.append(event.unit)
    return None
