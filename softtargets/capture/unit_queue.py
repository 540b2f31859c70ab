"""Which units are left to do, who has them, and which cannot be done."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable

from softtargets.engines.engine import MOST_ATTEMPTS
from softtargets.places.waiting import Waiting
from softtargets.store.ledger import Ledger
from softtargets.store.shard_table import ShardEntry
from softtargets.store.turns import Lease

_LEAST_PAUSE, _MOST_PAUSE = 1.0, 10.0
"""Seconds between two looks at what others have."""


class UnitQueue:
    """Units for one process or its workers, in order; what fails is tried again at the end.

    Where other processes may work on the same units, one is leased before it is given out. It is
    had by another when its holder dies, however it dies. One thread may take while another notes
    what becomes of the units.

    Args:
        ledger: of the store.
        units: those to do.
        on_done: told of units that another process did meanwhile, by the thread that takes.
    """

    def __init__(
        self,
        ledger: Ledger,
        units: Iterable[int],
        on_done: Callable[[ShardEntry], None],
    ) -> None:
        self.failed: dict[int, str] = {}
        """The units that failed too often, and what the last error was."""
        self._ledger = ledger
        self._pending = deque(units)
        self._on_done = on_done
        self._attempts: Counter[int] = Counter()
        self._leases: dict[int, Lease] = {}
        self._waiting: tuple[int, Waiting] | None = None
        self._pause = _LEAST_PAUSE

    def __len__(self) -> int:
        """Return how many units are neither done, failed nor given out."""
        return len(self._pending)

    def take(self) -> int | None:
        """Return the next unit, or None when none is left that no other process has."""
        for _ in range(len(self._pending)):
            unit = self._pending.popleft()
            lease = self._ledger.turns.lease(unit)
            if lease is not None and lease.is_first:
                return self._given(unit, lease)
            entry = self._ledger.read_record(unit)
            if entry is not None:
                if lease is not None:
                    lease.end()
                self._pause = _LEAST_PAUSE
                self._on_done(entry)
            elif lease is not None:
                return self._given(unit, lease)
            else:
                self._pending.append(unit)
        return None

    def _given(self, unit: int, lease: Lease) -> int:
        self._leases[unit] = lease
        self._pause = _LEAST_PAUSE
        return unit

    def wait(self) -> None:
        """Wait a moment for units that other processes have; they are done when those are, or die.

        The longer it takes, the longer is a moment. It is told then who has the first of them.
        """
        unit = self._pending[0]
        if self._waiting is None or self._waiting[0] != unit:
            where, what = str(self._ledger.place), f"unit {unit}"
            waiting = Waiting(where, what, lambda: self._ledger.turns.holder(unit))
            self._waiting = unit, waiting
        self._waiting[1].tell()
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _MOST_PAUSE)

    def finish(self, entry: ShardEntry) -> None:
        """Note that a unit is written and recorded."""
        self._leases.pop(entry.unit).end()
        self._ledger.note(entry)

    def fail(self, unit: int, error: str) -> None:
        """Note that a unit failed; it is tried again, after all others, if it may be."""
        self._leases.pop(unit).give_back()
        self._attempts[unit] += 1
        if self._attempts[unit] < MOST_ATTEMPTS:
            self._pending.append(unit)
        else:
            self.failed[unit] = error

    def close(self) -> None:
        """End; nothing runs any more. Claims count no longer than this process's heartbeat."""
        while self._leases:
            self._leases.popitem()[1].end()
