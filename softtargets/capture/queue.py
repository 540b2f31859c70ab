"""Which units are left to do, who has them, and which cannot be done."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from softtargets.capture.plan import read_unit
from softtargets.capture.progress import Tally
from softtargets.capture.segments import name_documents
from softtargets.errors import BusyError, StoreError
from softtargets.store.waiting import Waiting
from softtargets.store.writer import StoreWriter

_POLL_SECONDS = 1
MOST_ATTEMPTS = 3
"""How often a unit, or the loading of a teacher, is tried before it counts as failed."""


class UnitQueue:
    """Units for one process or its workers, in order; what fails is tried again at the end.

    Args:
        writer: of the store.
        units: those to do.
        tally: told of units that another process did meanwhile.
        is_shared: whether other processes may work on the same units. Then a unit is leased before
            it is given out: a lock that the system drops when its holder dies, however it dies.
    """

    def __init__(
        self, writer: StoreWriter, units: Iterable[int], tally: Tally, *, is_shared: bool = False
    ) -> None:
        self.failed: dict[int, str] = {}
        """The units that failed too often, and what the last error was."""
        self._writer = writer
        self._pending = deque(units)
        self._tally = tally
        self._is_shared = is_shared
        self._attempts: Counter[int] = Counter()
        self._leases: dict[int, ExitStack] = {}
        self._waiting: tuple[int, Waiting] | None = None

    def __len__(self) -> int:
        """Return how many units are neither done, failed nor given out."""
        return len(self._pending)

    def __iter__(self) -> Iterator[int]:
        """Yield units until none can be had."""
        while (unit := self.take()) is not None:
            yield unit

    def take(self) -> int | None:
        """Return the next unit, or None when none is left that no other process has."""
        for _ in range(len(self._pending)):
            unit = self._pending.popleft()
            lease = self._lease(unit)
            if lease is None:
                self._pending.append(unit)
                continue
            entry = self._writer.read_record(unit) if self._is_shared else None
            if entry is None:
                self._leases[unit] = lease
                return unit
            lease.close()
            self._tally.add_unit(unit)
            self._tally.write(entry)
        return None

    def wait(self) -> None:
        """Wait a moment for units that other processes have; they are done when those are, or die.

        When it takes long, it is told who has the first of them.
        """
        unit = self._pending[0]
        if self._waiting is None or self._waiting[0] != unit:
            where, what = str(self._writer.root), f"unit {unit}"
            waiting = Waiting(where, what, lambda: self._writer.lease_holder(unit))
            self._waiting = unit, waiting
        self._waiting[1].tell()
        time.sleep(_POLL_SECONDS)

    def finish(self, unit: int) -> None:
        """Note that a unit is written and recorded."""
        self._leases.pop(unit).close()

    def put_back(self) -> None:
        """Take back every unit that was given out and is not done: it is no fault of theirs."""
        for unit in sorted(self._leases, reverse=True):
            self.return_unit(unit)

    def return_unit(self, unit: int) -> None:
        """Take back a unit; it is the next to be given out."""
        self.finish(unit)
        self._pending.appendleft(unit)

    def fail(self, unit: int, error: str) -> None:
        """Note that a unit failed; it is tried again, after all others, if it may be."""
        self.finish(unit)
        self._attempts[unit] += 1
        if self._attempts[unit] < MOST_ATTEMPTS:
            self._pending.append(unit)
        else:
            self.failed[unit] = error

    def raise_failed(self) -> None:
        """Report the units that failed too often, if there are any.

        Raises:
            StoreError: with the first one's documents and error.
        """
        if not self.failed:
            return
        unit, error = min(self.failed.items())
        documents = name_documents(read_unit(self._writer.work, unit))
        raise StoreError(
            str(self._writer.root),
            expected="every unit done",
            found=f"{len(self.failed)} that failed {MOST_ATTEMPTS} times (units "
            f"{', '.join(str(one) for one in sorted(self.failed)[:10])}). Unit {unit}, with "
            f"{documents}: {error}",
            next_step="All other units are done. Mend what the error names, and run the same "
            "command again.",
        )

    def _lease(self, unit: int) -> ExitStack | None:
        """Return what holds the unit for this process, or None when another has it."""
        lease = ExitStack()
        if self._is_shared:
            try:
                lease.enter_context(self._writer.lease(unit))
            except BusyError:
                return None
        return lease
