"""Who plans and who has a unit, where several processes build a store: by locks, or by claims."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

from softtargets.errors import BusyError
from softtargets.store.request import read_request_of
from softtargets.store.work_files import LEASES, PLAN, PLAN_LEASE, PLAN_LOCK, lease_path
from softtargets.store.workplace import Workplace


def _nothing() -> None:
    """Leave a claim as it is."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A unit that this process holds."""

    is_first: bool
    """Whether no other process can have done it."""
    end: Callable[[], None] = _nothing
    """Called when it is done, or when this process works no more and it may be done."""
    give_back: Callable[[], None] = _nothing
    """Called when it is not done, and others may have it."""


class Turns:
    """The turns of this process among those that build the same store.

    Args:
        workplace: where the store is built.
        is_joined: whether the process began beside others, and not as the only one.
    """

    def __init__(self, workplace: Workplace, *, is_joined: bool) -> None:
        self._workplace = workplace
        self._is_joined = is_joined

    @property
    def are_taken(self) -> bool:
        """Return whether other processes may work on the same units."""
        return self._is_joined or self._workplace.writes_once

    def planning(self) -> AbstractContextManager[None]:
        """Keep the other processes waiting, so that one of them plans for all.

        Raises:
            IdentityError: another store was begun in the place.
        """
        place = self._workplace.place
        if self._workplace.writes_once:
            # Two that plan nevertheless write the same.
            return self._workplace.leases.awaited(
                PLAN_LEASE,
                "the plan of the units",
                lambda: place.size(PLAN) is not None or self._workplace.is_complete,
            )
        return self._planning_locked() if self._is_joined else nullcontext()

    @contextmanager
    def _planning_locked(self) -> Iterator[None]:
        workplace = self._workplace
        with workplace.place.lock(PLAN_LOCK, wait_for="the plan of the units"):
            found = read_request_of(workplace.place)
            if found is None:
                workplace.begin()
            else:
                workplace.check_request(found)
            workplace.place.make_directory(LEASES)
            yield

    def own_order(self, units: Sequence[int]) -> Sequence[int]:
        """Return units in the order in which this process asks for them.

        A lock that is taken costs nothing to find so; a claim costs several requests.
        """
        is_claimed = self._workplace.writes_once
        return self._workplace.leases.own_order(units) if is_claimed else units

    def lease(self, unit: int) -> Lease | None:
        """Hold a unit for this process while it works on it; return None if another holds it."""
        if not self.are_taken:
            return Lease(is_first=True)
        path = lease_path(unit)
        if self._workplace.writes_once:
            leases = self._workplace.leases
            claim = leases.claim(path)
            give_back = partial(leases.give_back, path)
            return None if claim is None else Lease(claim.is_first, give_back=give_back)
        held = ExitStack()
        try:
            held.enter_context(self._workplace.place.lock(path))
        except BusyError:
            return None
        return Lease(is_first=False, end=held.close, give_back=held.close)

    def holder(self, unit: int) -> str:
        """Return which process holds a unit, or held it last."""
        if self._workplace.writes_once:
            return self._workplace.leases.holder(lease_path(unit))
        return self._workplace.place.lock_holder(lease_path(unit))
