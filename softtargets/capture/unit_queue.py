"""Which units are left to do, who has them, and which cannot be done."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack

from softtargets.engines.engine import MOST_ATTEMPTS
from softtargets.errors import BusyError
from softtargets.places.waiting import Waiting
from softtargets.store.ledger import Ledger
from softtargets.store.shard_table import ShardEntry

_POLL_SECONDS = 1


class UnitQueue:
    """Units for one process or its workers, in order; what fails is tried again at the end.

    Where other processes may work on the same units, one is leased before it is given out. It is
    had by another when its holder dies, however it dies.

    Args:
        ledger: of the store.
        units: those to do.
        on_done: told of units that another process did meanwhile.
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
        self._is_shared = ledger.turns.are_taken
        self._attempts: Counter[int] = Counter()
        self._leases: dict[int, ExitStack] = {}
        self._waiting: tuple[int, Waiting] | None = None

    def __len__(self) -> int:
        """Return how many units are neither done, failed nor given out."""
        return len(self._pending)

    def take(self) -> int | None:
        """Return the next unit, or None when none is left that no other process has."""
        for _ in range(len(self._pending)):
            unit = self._pending.popleft()
            lease = self._lease(unit)
            entry = self._ledger.read_record(unit) if self._is_shared else None
            if entry is not None:
                if lease is not None:
                    lease.close()
                self._on_done(entry)
            elif lease is not None:
                self._leases[unit] = lease
                return unit
            else:
                self._pending.append(unit)
        return None

    def wait(self) -> None:
        """Wait a moment for units that other processes have; they are done when those are, or die.

        When it takes long, it is told who has the first of them.
        """
        unit = self._pending[0]
        if self._waiting is None or self._waiting[0] != unit:
            where, what = str(self._ledger.place), f"unit {unit}"
            waiting = Waiting(where, what, lambda: self._ledger.turns.holder(unit))
            self._waiting = unit, waiting
        self._waiting[1].tell()
        time.sleep(_POLL_SECONDS)

    def finish(self, entry: ShardEntry) -> None:
        """Note that a unit is written and recorded."""
        self._leases.pop(entry.unit).close()
        self._ledger.note(entry)

    def fail(self, unit: int, error: str) -> None:
        """Note that a unit failed; it is tried again, after all others, if it may be."""
        self._leases.pop(unit).close()
        self._attempts[unit] += 1
        if self._attempts[unit] < MOST_ATTEMPTS:
            self._pending.append(unit)
        else:
            self.failed[unit] = error

    def close(self) -> None:
        """Give back what was given out and is not done; nothing runs any more."""
        while self._leases:
            self._leases.popitem()[1].close()

    def _lease(self, unit: int) -> ExitStack | None:
        """Return what holds the unit for this process, or None when another has it."""
        lease = ExitStack()
        if self._is_shared:
            try:
                lease.enter_context(self._ledger.turns.lease(unit))
            except BusyError:
                return None
        return lease
