"""Running units in a process that is asked for them one by one, by calls from elsewhere.

A job runs best when it is given the next unit before the last is written. So its units are run in a
thread of their own, and each call waits for its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from socket import gethostname
from threading import Thread

from softtargets.engines.engine import Done, Failed, Job
from softtargets.errors import SoftTargetsError, StoreError
from softtargets.places.place import LockGoneError
from softtargets.places.waiting import this_process

Outcome = Done | Failed | SoftTargetsError | None
"""What became of a unit. An error is everybody's; None says that another process may run it."""


class UnitRunner:
    """Runs units until one fails, or nothing can be run. Its methods are called from any thread.

    Args:
        make_job: makes what runs them, here: a job may look for files as it is unpickled.
        worker: the number of this process among those that run units.
        directory: of the one who asks, which relative paths are meant from. It need not be here.
    """

    def __init__(self, make_job: Callable[[], Job], worker: int, directory: str) -> None:
        if Path(directory).is_dir():
            os.chdir(directory)
        self._asked: SimpleQueue[int] = SimpleQueue()
        self._outcomes: dict[int, Future[Outcome]] = {}
        self._loaded: Future[Outcome] = Future()
        self._ended: Future[Outcome] = Future()
        """What became of everything that was asked for and has no outcome."""
        thread = Thread(target=self._work, args=(make_job, worker), daemon=True)
        thread.start()

    def load(self) -> Outcome:
        """Wait until a unit can be run; return the error if none can."""
        return self._first_of(self._loaded)

    def run(self, unit: int) -> Outcome:
        """Run a unit when those that were asked for before are run, and return what became of it.

        Raises:
            Exception: one that nobody expected.
        """
        outcome = self._outcomes[unit] = Future()
        self._asked.put(unit)
        return self._first_of(outcome)

    def name(self) -> str:
        """Return what messages call this process, which shows that it is alive."""
        return this_process()

    def _first_of(self, outcome: Future[Outcome]) -> Outcome:
        wait([outcome, self._ended], return_when=FIRST_COMPLETED)
        return (outcome if outcome.done() else self._ended).result()

    def _work(self, make_job: Callable[[], Job], worker: int) -> None:
        try:
            self._run(make_job().for_worker(worker))
        except SoftTargetsError as error:
            self._ended.set_result(error)
        # Whoever asked is to hear of it, whatever it is.
        except Exception as error:  # noqa: BLE001
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    def _run(self, job: Job) -> None:
        """Run what is asked for until a unit fails: what it left in memory may spoil the next.

        Raises:
            StoreError: the place is not seen from here.
            SoftTargetsError: no unit can be run.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(job.working())
            except LockGoneError as error:
                raise _not_seen(job.where) from error
            while True:
                with closing(job.run(self._units())) as events:
                    for event in events:
                        if isinstance(event, Done):
                            self._outcomes.pop(event.entry.unit).set_result(event)
                        elif isinstance(event, Failed):
                            self._outcomes.pop(event.unit).set_result(event)
                            return

    def _units(self) -> Iterator[int]:
        """Wait for a unit, and yield it and those that were asked for meanwhile.

        Where none was, the job is to write the last.
        """
        if not self._loaded.done():
            self._loaded.set_result(None)
        yield self._asked.get()
        with suppress(Empty):
            while True:
                yield self._asked.get_nowait()


def _not_seen(where: str) -> StoreError:
    return StoreError(
        where,
        expected="a directory that every worker sees",
        found=f"one that is not there on {gethostname()}",
        next_step="Write to a file system that all nodes share, or to an object store.",
    )
