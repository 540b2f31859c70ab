"""Running units in several processes of one machine.

The parent hands units out one by one over a pipe to each worker, so it knows what a worker that
dies had taken, and gives that to another. Whoever runs a unit, its bytes are the same.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from softtargets.capture.keep.selection import Selection
from softtargets.capture.progress import Tally
from softtargets.capture.queue import MOST_ATTEMPTS, UnitQueue
from softtargets.capture.score import Scorer
from softtargets.capture.teacher import Teacher
from softtargets.capture.units import UnitError, run_units
from softtargets.errors import SoftTargetsError, StoreError
from softtargets.store.shard_table import ShardEntry
from softtargets.store.waiting import Waiting, is_stopped, process_text
from softtargets.store.writer import StoreWriter

_LOOK_SECONDS = 2.0
"""How long the parent hears nothing before it looks whether a worker is stopped."""
_END_SECONDS = 5.0
"""How long a worker has to end when it is asked to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker needs to run any unit."""

    root: Path
    identity: Mapping[str, Any]
    selection: Selection
    batch_tokens: int


@dataclass(slots=True, eq=False)
class _Worker:
    """One process, and the units it was given and has not written."""

    process: BaseProcess
    connection: Connection
    reserved: int | None
    """The unit it is to be given first, when it has loaded its teacher."""
    units: set[int] = field(default_factory=set)
    error: SoftTargetsError | None = None
    failed_unit: int | None = None
    """The unit that the error is about."""
    has_ended: bool = False


def run_workers(
    job: Job,
    teacher: Teacher,
    writer: StoreWriter,
    queue: UnitQueue,
    num_workers: int,
    tally: Tally,
) -> None:
    """Run units in `num_workers` processes until none can be had; one that dies is replaced.

    Raises:
        StoreError: the system refused to write, or no worker gets as far as a unit.
        SoftTargetsError: what kept the teacher from loading.
    """
    pool = _Pool(job, teacher, writer, queue, tally)
    try:
        pool.run(num_workers)
    finally:
        pool.stop()


class _Pool:
    """The workers, and the queue they are given units from."""

    def __init__(
        self, job: Job, teacher: Teacher, writer: StoreWriter, queue: UnitQueue, tally: Tally
    ) -> None:
        self._job = job
        self._teacher = teacher
        self._writer = writer
        self._queue = queue
        self._tally = tally
        self._waiting: Waiting | None = None
        self._num_idle_deaths = 0
        self._num_started = 0
        self._workers: list[_Worker] = []

    def run(self, num_workers: int) -> None:
        """Run until no unit can be had."""
        while True:
            while len(self._workers) < num_workers and (unit := self._queue.take()) is not None:
                self._start(unit)
            if not self._workers:
                return
            connections = {worker.connection: worker for worker in self._workers}
            ready = wait(list(connections), timeout=_LOOK_SECONDS)
            if not ready:
                self._tell_of_stopped()
            for connection in ready:
                assert isinstance(connection, Connection)
                self._hear(connections[connection])

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
                    where = str(self._writer.root)
                    self._waiting = Waiting(where, "a worker's unit", partial(str, name))
                self._waiting.tell()
                return
        self._waiting = None

    def _start(self, unit: int) -> None:
        context = multiprocessing.get_context("spawn")
        own, theirs = context.Pipe()
        teacher = self._teacher.for_worker(self._num_started)
        self._num_started += 1
        process = context.Process(target=_work, args=(self._job, teacher, theirs), daemon=True)
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, own, reserved=unit))

    def _hear(self, worker: _Worker) -> None:
        """Take one message of a worker, or notice that it died."""
        try:
            kind, value = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            self._bury(worker)
            return
        if kind == "ready":
            unit = self._queue.take() if worker.reserved is None else worker.reserved
            worker.reserved = None
            if unit is not None:
                worker.units.add(unit)
            worker.has_ended = unit is None
            with suppress(BrokenPipeError, ConnectionResetError):  # It died: heard of next.
                worker.connection.send(unit)
        elif kind == "written":
            self._note(worker, value)
        else:
            worker.failed_unit, worker.error = value

    def _note(self, worker: _Worker, entry: ShardEntry) -> None:
        worker.units.discard(entry.unit)
        self._queue.finish(entry.unit)
        self._tally.add_unit(entry.unit)
        self._tally.write(entry)

    def _bury(self, worker: _Worker) -> None:
        """Give what a worker left undone to others."""
        worker.process.join()
        worker.connection.close()
        self._workers.remove(worker)
        for unit in sorted(worker.units):
            entry = self._writer.read_record(unit)
            if entry is not None:
                self._note(worker, entry)
        if worker.reserved is not None:
            self._queue.return_unit(worker.reserved)
        if worker.error is not None and worker.failed_unit is None:
            raise worker.error
        text = str(worker.error or f"its process ended with exit code {worker.process.exitcode}")
        if not worker.units and not worker.has_ended:
            self._note_idle_death(text)
        for unit in sorted(worker.units, reverse=True):
            if worker.failed_unit in (None, unit):
                self._queue.fail(unit, text)
            else:
                self._queue.return_unit(unit)

    def _note_idle_death(self, text: str) -> None:
        self._num_idle_deaths += 1
        if self._num_idle_deaths >= MOST_ATTEMPTS:
            raise StoreError(
                str(self._writer.root),
                expected="workers that load the teacher",
                found=text,
                next_step="Look for the system's reason, for example memory; fewer --workers "
                "need less.",
            )


def _work(job: Job, teacher: Teacher, connection: Connection) -> None:
    """Run the units that the parent sends until it sends None, or dies."""
    # The parent hears Ctrl-C too, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    transformers_logging.disable_progress_bar()
    writer = StoreWriter(job.root, job.identity)
    with writer.working():
        try:
            teacher.load()
            scorer = Scorer(teacher, job.selection, writer.targets, job.batch_tokens)
            run_units(
                scorer,
                teacher,
                writer,
                _assigned(connection),
                on_batch=lambda *_: None,
                on_written=lambda entry: connection.send(("written", entry)),
            )
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
        except UnitError as error:
            connection.send(("failed", (error.unit, error.cause)))
        except SoftTargetsError as error:
            connection.send(("failed", (None, error)))


def _assigned(connection: Connection) -> Iterator[int]:
    while True:
        connection.send(("ready", None))
        unit = connection.recv()
        if unit is None:
            return
        yield unit
