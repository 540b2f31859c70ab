"""Running units in several processes of one machine.

The parent hands units out one by one over a pipe to each worker, so it knows what a worker that
dies had taken, and gives that to another. Whoever runs a unit, its bytes are the same.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from softtargets.capture.plan import read_unit
from softtargets.capture.progress import Tally
from softtargets.capture.score import Scorer, name_documents
from softtargets.capture.select import TopK
from softtargets.capture.teacher import Teacher
from softtargets.capture.units import run_units
from softtargets.errors import SoftTargetsError, StoreError, TeacherError
from softtargets.store.files import hold_lock
from softtargets.store.manifest import ShardEntry
from softtargets.store.writer import StoreWriter

MOST_ATTEMPTS = 3
"""How often a unit, or the loading of a teacher, is tried before it counts as failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker needs to run any unit."""

    root: Path
    identity: Mapping[str, Any]
    selection: TopK
    batch_tokens: int


@dataclass(slots=True, eq=False)
class _Worker:
    """One process, and the units it was given and has not written."""

    process: BaseProcess
    connection: Connection
    units: set[int] = field(default_factory=set)
    error: SoftTargetsError | None = None
    has_ended: bool = False


def run_workers(
    job: Job,
    teacher: Teacher,
    writer: StoreWriter,
    units: Sequence[int],
    num_workers: int,
    tally: Tally,
) -> None:
    """Run units in `num_workers` processes; one that dies is replaced.

    Raises:
        StoreError: units failed three times; all others are done.
        SoftTargetsError: what kept the teacher from loading.
    """
    pool = _Pool(job, teacher, writer, units, tally)
    try:
        pool.run(num_workers)
    finally:
        pool.stop()
    if pool.failed:
        unit, error = min(pool.failed.items())
        documents = name_documents(read_unit(writer.work, unit))
        raise StoreError(
            str(writer.root),
            expected="every unit done",
            found=f"{len(pool.failed)} that failed {MOST_ATTEMPTS} times (units "
            f"{', '.join(str(one) for one in sorted(pool.failed)[:10])}). Unit {unit}, with "
            f"{documents}: {error}",
            next_step="All other units are done. Mend what the error names, and run the same "
            "command again.",
        )


class _Pool:
    """The workers, what is left for them, and what they could not do."""

    def __init__(
        self,
        job: Job,
        teacher: Teacher,
        writer: StoreWriter,
        units: Sequence[int],
        tally: Tally,
    ) -> None:
        self.failed: dict[int, str] = {}
        self._job = job
        self._teacher = teacher
        self._writer = writer
        self._tally = tally
        self._pending = deque(units)
        self._attempts: Counter[int] = Counter()
        self._num_idle_deaths = 0
        self._num_started = 0
        self._workers: list[_Worker] = []

    def run(self, num_workers: int) -> None:
        """Run until nothing is left."""
        while self._pending or self._workers:
            num_busy = sum(bool(worker.units) for worker in self._workers)
            while len(self._workers) < min(num_workers, len(self._pending) + num_busy):
                self._start()
            connections = {worker.connection: worker for worker in self._workers}
            for connection in wait(list(connections)):
                assert isinstance(connection, Connection)
                self._hear(connections[connection])

    def stop(self) -> None:
        """End every worker that is still there."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        own, theirs = context.Pipe()
        teacher = self._teacher.for_worker(self._num_started)
        self._num_started += 1
        process = context.Process(target=_work, args=(self._job, teacher, theirs), daemon=True)
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, own))

    def _hear(self, worker: _Worker) -> None:
        """Take one message of a worker, or notice that it died."""
        try:
            kind, value = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            self._bury(worker)
            return
        if kind == "ready":
            unit = self._pending.popleft() if self._pending else None
            if unit is not None:
                worker.units.add(unit)
            worker.has_ended = unit is None
            with suppress(BrokenPipeError, ConnectionResetError):  # It died: heard of next.
                worker.connection.send(unit)
        elif kind == "written":
            self._note(worker, value)
        else:
            worker.error = value

    def _note(self, worker: _Worker, entry: ShardEntry) -> None:
        worker.units.discard(entry.unit)
        self._tally.add_unit(entry.unit)
        self._tally.write(entry)

    def _bury(self, worker: _Worker) -> None:
        """Give what a worker left undone to others."""
        worker.process.join()
        worker.connection.close()
        self._workers.remove(worker)
        recorded = self._writer.recorded() if worker.units else {}
        for unit in sorted(worker.units & set(recorded)):
            self._note(worker, recorded[unit])
        text = str(worker.error or f"its process ended with exit code {worker.process.exitcode}")
        if not worker.units and not worker.has_ended:
            self._num_idle_deaths += 1
            if worker.error is not None:
                raise worker.error
            if self._num_idle_deaths >= MOST_ATTEMPTS:
                raise StoreError(
                    str(self._writer.root),
                    expected="workers that load the teacher",
                    found=text,
                    next_step="Look for the system's reason, for example memory; fewer --workers "
                    "need less.",
                )
        for unit in sorted(worker.units):
            self._attempts[unit] += 1
            if self._attempts[unit] < MOST_ATTEMPTS:
                self._pending.append(unit)
            else:
                self.failed[unit] = text


def _work(job: Job, teacher: Teacher, connection: Connection) -> None:
    """Run the units that the parent sends until it sends None, or dies."""
    # The parent hears Ctrl-C too, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    transformers_logging.disable_progress_bar()
    writer = StoreWriter(job.root, job.identity)
    with hold_lock(writer.workers_lock, shared=True):
        try:
            teacher.load()
            scorer = Scorer(teacher, job.selection, writer.targets, job.batch_tokens)
            run_units(
                scorer,
                teacher,
                writer,
                _assigned(connection),
                on_batch=lambda _: None,
                on_written=lambda entry: connection.send(("written", entry)),
            )
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
        except SoftTargetsError as error:
            connection.send(("failed", error))
        except Exception as error:  # noqa: BLE001 - the process ends here; its parent reports it
            connection.send(("failed", _unexpected(error)))


def _unexpected(error: Exception) -> TeacherError:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return TeacherError(
        f"{Path(last.filename).name}, line {last.lineno}",
        expected="a unit to be scored",
        found=f"{type(error).__name__}: {error}",
        next_step="If the message does not help, please report it.",
    )


def _assigned(connection: Connection) -> Iterator[int]:
    while True:
        connection.send(("ready", None))
        unit = connection.recv()
        if unit is None:
            return
        yield unit
