"""Running units in several processes of one machine.

The parent hands units out one by one over a pipe to each worker, so it knows what a worker that
dies had taken, and gives that to another. Whoever runs a unit, its bytes are the same.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.forkserver import _forkserver
from multiprocessing.process import BaseProcess

from softtargets.engines.engine import MOST_ATTEMPTS, Done, Event, Failed, Job, Scored
from softtargets.errors import SoftTargetsError, StoreError
from softtargets.places.waiting import Waiting, is_stopped, process_text

if sys.platform == "linux":
    # A server imports what jobs need, once, and every worker begins as a fork of it. It computes
    # nothing and opens no device. Libraries of macOS do not survive a fork.
    _CONTEXT = multiprocessing.get_context("forkserver")
else:
    _CONTEXT = multiprocessing.get_context("spawn")
_LOOK_SECONDS = 2.0
"""How long the parent hears nothing before it looks whether a worker is stopped."""
_END_SECONDS = 5.0
"""How long a worker has to end when it is asked to."""
_READY = "ready"
"""What a worker says when it wants a unit."""


class Processes:
    """Runs units in so many processes; one that dies is replaced."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers

    def run(self, job: Job, take: Callable[[], int | None]) -> Generator[Event]:
        """Run units until none can be had.

        Raises:
            StoreError: the system refused to write, or no worker gets as far as a unit.
            SoftTargetsError: what kept the teacher from loading.
        """
        pool = _Pool(job, take)
        try:
            yield from pool.run(self.num_workers)
        finally:
            pool.stop()


@dataclass(slots=True, eq=False)
class _Worker:
    """One process, and the units it was given and has not written."""

    process: BaseProcess
    connection: Connection
    reserved: int | None
    """The unit it is to be given first, when it has loaded its teacher."""
    units: set[int] = field(default_factory=set)
    failed: Failed | None = None
    error: SoftTargetsError | None = None
    """What no other worker would do better with."""
    has_ended: bool = False


class _Pool:
    """The workers, and the units that they are given."""

    def __init__(self, job: Job, take: Callable[[], int | None]) -> None:
        self._job = job
        self._take_new = take
        self._returned: deque[int] = deque()
        """Units that a worker was given and left, by no fault of theirs."""
        self._waiting: Waiting | None = None
        self._num_idle_deaths = 0
        self._num_started = 0
        self._workers: list[_Worker] = []

    def run(self, num_workers: int) -> Iterator[Event]:
        """Run until no unit can be had."""
        while True:
            while len(self._workers) < num_workers and (unit := self._take()) is not None:
                self._start(unit)
            if not self._workers:
                return
            connections = {worker.connection: worker for worker in self._workers}
            ready = wait(list(connections), timeout=_LOOK_SECONDS)
            if not ready:
                self._tell_of_stopped()
            for connection in ready:
                assert isinstance(connection, Connection)
                yield from self._hear(connections[connection])

    def stop(self) -> None:
        """End every worker that is still there."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_END_SECONDS)
            # One that is stopped hears nothing else. What it writes is whole or not there.
            worker.process.kill()
            worker.process.join()
            worker.connection.close()

    def _tell_of_stopped(self) -> None:
        """Tell of a worker that somebody stopped; one that works may take its time."""
        for worker in self._workers:
            assert worker.process.pid is not None
            name = process_text(worker.process.pid)
            if is_stopped(name):
                if self._waiting is None:
                    self._waiting = Waiting(self._job.where, "a worker's unit", partial(str, name))
                self._waiting.tell()
                return
        self._waiting = None

    def _take(self) -> int | None:
        return self._returned.popleft() if self._returned else self._take_new()

    def _start(self, unit: int) -> None:
        _import_in_server([type(self._job).__module__, *self._job.modules])
        own, theirs = _CONTEXT.Pipe()
        job = self._job.for_worker(self._num_started)
        self._num_started += 1
        process = _CONTEXT.Process(target=_work, args=(job, theirs), daemon=True)
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, own, reserved=unit))

    def _hear(self, worker: _Worker) -> Iterator[Event]:
        """Take one message of a worker, or notice that it died."""
        try:
            message = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            yield from self._bury(worker)
            return
        if isinstance(message, Done):
            worker.units.discard(message.entry.unit)
            yield message
        elif isinstance(message, Failed):
            worker.failed = message
        elif isinstance(message, SoftTargetsError):
            worker.error = message
        else:
            self._give(worker)

    def _give(self, worker: _Worker) -> None:
        """Give a worker its next unit, or let it end."""
        unit = self._take() if worker.reserved is None else worker.reserved
        worker.reserved = None
        if unit is not None:
            worker.units.add(unit)
        worker.has_ended = unit is None
        with suppress(BrokenPipeError, ConnectionResetError):  # It died: heard of next.
            worker.connection.send(unit)

    def _bury(self, worker: _Worker) -> Iterator[Event]:
        """Give what a worker left undone to others."""
        worker.process.join()
        worker.connection.close()
        self._workers.remove(worker)
        for unit in sorted(worker.units):
            entry = self._job.recorded(unit)
            if entry is not None:
                worker.units.discard(unit)
                yield Done(entry)
        if worker.reserved is not None:
            self._returned.appendleft(worker.reserved)
        if worker.error is not None:
            raise worker.error
        text = f"its process ended with exit code {worker.process.exitcode}"
        if not worker.units and not worker.has_ended:
            self._note_idle_death(text)
        for unit in sorted(worker.units, reverse=True):
            if worker.failed is None:
                yield Failed(unit, text)
            elif worker.failed.unit == unit:
                yield worker.failed
            else:
                self._returned.appendleft(unit)

    def _note_idle_death(self, text: str) -> None:
        self._num_idle_deaths += 1
        if self._num_idle_deaths >= MOST_ATTEMPTS:
            raise StoreError(
                self._job.where,
                expected="workers that load the teacher",
                found=text,
                next_step="Look for the system's reason, for example memory; fewer --workers "
                "need less.",
            )


def _import_in_server(modules: Sequence[str]) -> None:
    """Have the server import modules when it starts, beside those that the program named itself.

    A process has one server for all that use it, and Python has no way to ask for its list. Without
    one, it would be the program's own module, which may open a device when it is imported.
    """
    named = vars(_forkserver).get("_preload_modules", ())
    own = [name for name in named if name not in ("__main__", *modules)]
    _CONTEXT.set_forkserver_preload([*own, *modules])


def _work(job: Job, connection: Connection) -> None:
    """Run the units that the parent sends until it sends None, or dies, or one fails."""
    # The parent hears Ctrl-C too, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with job.working():
        try:
            with closing(job.run(_assigned(connection))) as events:
                for event in events:
                    if not isinstance(event, Scored):
                        connection.send(event)
                    if isinstance(event, Failed):
                        return
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
        except SoftTargetsError as error:
            connection.send(error)


def _assigned(connection: Connection) -> Iterator[int]:
    while True:
        connection.send(_READY)
        unit = connection.recv()
        if unit is None:
            return
        yield unit
