"""Who works in a place without locks: heartbeats of processes, and claims of what is to be done.

    work/workers/ID     the heartbeat of a process, written every period with another content
    work/leases/NAME    which process has a unit or has done it, or plans

Leases save work, and nothing else depends on them: a unit that two processes run is recorded once.
The claim of a unit that is done stays until the commit: whoever could claim a unit first knows by
that alone that it is not done. One that was given back stays, too, as nobody's. After the commit a
claim goes when the windows of its unit are gone, so that whoever claims it again reads none.
A process counts as dead when its heartbeat is gone, or when another has seen it unchanged for three
periods by a clock of its own that never goes back. No two clocks are compared. Whoever claims what
a dead process had replaces the claim that was read, so of several that try one succeeds.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from uuid import uuid4

from softtargets.errors import BusyError, SoftTargetsError, StoreError
from softtargets.places.at_once import answers
from softtargets.places.place import Place
from softtargets.places.waiting import Waiting, this_process
from softtargets.store.json_object import parse_object
from softtargets.store.work_files import LEASES, WORKERS

PERIOD_SECONDS = 10.0
"""Between two heartbeats."""
_MISSED = 3
"""Periods without another heartbeat after which a process counts as dead."""
_LOOK_SECONDS = 1.0
"""Between two looks at what another process has."""

_GIVEN_BACK = json.dumps({"worker": "", "holder": ""}).encode()
"""A claim that nobody has any more."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a process has claimed."""

    is_first: bool
    """Whether nobody had it before."""


class Leases:
    """The heartbeat and the claims of this process, and what it has seen of others.

    Args:
        place: which keeps its promises of conditional puts.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._worker = uuid4().hex
        self._seen: dict[str, tuple[str, float]] = {}
        """The tags of others' heartbeats, and since when each is unchanged."""
        self._own = json.dumps({"worker": self._worker, "holder": this_process()}).encode()

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Show others that this process is alive.

        Raises:
            StoreError: the place cannot be reached at the beginning.
        """
        path, is_over = f"{WORKERS}/{self._worker}", Event()
        self._beat(path, 0)

        def keep_beating() -> None:
            number = 0
            while not is_over.wait(PERIOD_SECONDS):
                number += 1
                with _warned("others may take what this process has"):
                    self._beat(path, number)

        thread = Thread(target=keep_beating, name="softtargets-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            with _warned("others wait for what this process had"):
                self._place.delete(path)

    def _beat(self, path: str, number: int) -> None:
        self._place.put(path, f"{this_process()}, heartbeat {number}\n".encode())

    def others(self) -> list[str]:
        """Return the other processes whose heartbeats are there, dead ones too."""
        workers = [path.removeprefix(f"{WORKERS}/") for path in self._place.list(WORKERS)]
        return [worker for worker in workers if worker != self._worker]

    def is_dead(self, worker: str) -> bool:
        """Return whether a process counts as dead, by what was seen so far and by another look."""
        asked = time.monotonic()
        found = self._place.get_tagged(f"{WORKERS}/{worker}")
        if found is None:
            return True
        tag, since = self._seen.get(worker, ("", 0.0))
        if tag != found[1]:
            self._seen[worker] = found[1], time.monotonic()
            return False
        return asked - since >= _MISSED * PERIOD_SECONDS

    def dead(self) -> list[str]:
        """Watch all other processes until each counts as dead or has shown that it is alive."""
        dead: list[str] = []
        unknown = dict.fromkeys(self.others(), "")
        while unknown:
            for worker, tag in list(unknown.items()):
                is_dead = self.is_dead(worker)
                seen = self._seen.get(worker, ("", 0.0))[0]
                if is_dead:
                    dead.append(worker)
                if is_dead or tag not in ("", seen):
                    unknown.pop(worker)
                else:
                    unknown[worker] = seen
            if unknown:
                time.sleep(min(_LOOK_SECONDS, PERIOD_SECONDS))
        return sorted(dead)

    def left(self) -> list[str]:
        """Return the heartbeats and claims that dead processes left, after watching all."""
        dead = self.dead()
        paths = self._place.list(LEASES)
        claims = list(zip(paths, answers(self._place, self._place.get, paths), strict=True))
        alive = set(self.others()) - set(dead)
        left = [
            path
            for path, content in claims
            if content is not None and self._parse(content, path)[0] not in alive
        ]
        return [*(f"{WORKERS}/{worker}" for worker in dead), *left]

    def claim(self, path: str) -> Claim | None:
        """Have a claim until it is given back; return None when a process that may live has it."""
        if self._place.put_if_absent(path, self._own):
            return Claim(is_first=True)
        found = self._place.get_tagged(path)
        if found is None:  # Given back just now.
            return None
        content, tag = found
        worker, _ = self._parse(content, path)
        if worker and (self._was_alive(worker) or not self.is_dead(worker)):
            return None
        is_taken_over = self._place.put_if_match(path, self._own, tag)
        return Claim(is_first=False) if is_taken_over else None

    def give_back(self, path: str) -> None:
        """Let others have what this process claimed; a claim of another is left as it is.

        Nothing is deleted: an attempt that was done without an answer is made again, and would take
        the claim of a process that came between. Whoever was next would then count as the first.
        """
        with _warned("others wait for what this process had"):
            found = self._place.get_tagged(path)
            if found is not None and found[0] == self._own:
                self._place.put_if_match(path, _GIVEN_BACK, found[1])

    @contextmanager
    def hold(self, path: str) -> Iterator[None]:
        """Have a claim, and give it back.

        Raises:
            BusyError: a process that may be alive has it.
        """
        if self.claim(path) is None:
            raise BusyError(
                self._place.where(path),
                expected="no other process that has it",
                found=f"{self.holder(path) or 'one'}",
                next_step="Wait until that process is done, or counts as dead.",
            )
        try:
            yield
        finally:
            self.give_back(path)

    @contextmanager
    def awaited(self, path: str, what: str, is_done: Callable[[], bool]) -> Iterator[None]:
        """Have a claim as soon as no other process has it, or go on when it is of no use any more.

        Args:
            path: of the claim.
            what: is waited for, for messages.
            is_done: whether it is of no use any more.
        """
        waiting = Waiting(str(self._place), what, lambda: self.holder(path))
        with ExitStack() as claim:
            while not is_done():
                try:
                    claim.enter_context(self.hold(path))
                    break
                except BusyError:
                    waiting.tell()
                    time.sleep(min(_LOOK_SECONDS, PERIOD_SECONDS))
            yield

    def own_order(self, units: Sequence[int]) -> list[int]:
        """Return units in an order in which few other processes have the same one first."""
        start = int(self._worker[:8], 16) % max(1, len(units))
        return [*units[start:], *units[:start]]

    def holder(self, path: str) -> str:
        """Return which process has a claim; nothing if none has."""
        content = self._place.get(path)
        return "" if content is None else self._parse(content, path)[1]

    def _was_alive(self, worker: str) -> bool:
        """Return whether a process showed within the last period that it is alive."""
        _, since = self._seen.get(worker, ("", -math.inf))
        return time.monotonic() - since < PERIOD_SECONDS

    def _parse(self, content: bytes, path: str) -> tuple[str, str]:
        """Return the process that has a claim, by its id and in words."""
        data = parse_object(content, self._place.where(path))
        worker, holder = data.get("worker"), data.get("holder")
        if not isinstance(worker, str) or not isinstance(holder, str):
            raise StoreError(
                self._place.where(path),
                expected="a claim of softtargets, with the fields worker and holder",
                found="something else",
                next_step="Choose another output directory; this file was not touched.",
            )
        return worker, holder


@contextmanager
def _warned(consequence: str) -> Iterator[None]:
    """Log an error and what follows from it; no work is lost."""
    try:
        yield
    except SoftTargetsError as error:
        _log.warning("%s So %s.", error, consequence)
