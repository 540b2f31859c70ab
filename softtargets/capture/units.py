"""What a unit takes: the teacher reads it while threads write the last and fetch the next."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from softtargets.capture.build_config import CaptureTask
from softtargets.capture.keep.selection import Selection
from softtargets.capture.score import ScoredBatch, Scorer, pack_windows
from softtargets.capture.teacher import Teacher
from softtargets.capture.unit_plan import read_unit
from softtargets.capture.units_ahead import UnitsAhead
from softtargets.engines.engine import Done, Event, Failed, Scored
from softtargets.errors import FormatError, ServerError, SoftTargetsError, TeacherError
from softtargets.store.rounding import RoundingError, noted
from softtargets.store.shard_table import ShardEntry
from softtargets.store.writer import StoreWriter
from softtargets.window import TokenWindow

_LOOK_BATCHES = 2
"""So many batches of a unit are left when a thread asks for the next one."""


class UnitError(Exception):
    """A unit could not be scored; others may."""


def load_quietly() -> None:
    """Keep the progress of loading a teacher from being shown, by each of several processes."""
    transformers_logging.disable_progress_bar()


@dataclass(kw_only=True)
class ScoringJob:
    """Scores the planned units of a store and writes them: the `Job` of a build."""

    teacher: Teacher
    task: CaptureTask
    writer: StoreWriter
    selection: Selection
    batch_tokens: int
    is_alone: bool = True
    """Whether this process takes the units that it runs. What a worker takes, it fails if it dies;
    so it takes none before it is due."""
    _scorer: Scorer | None = field(default=None, init=False)

    @property
    def where(self) -> str:
        """Return what messages call the store."""
        return str(self.writer.place)

    @property
    def modules(self) -> Sequence[str]:
        """Return what the teacher imports when it loads."""
        return self.teacher.modules

    def for_worker(self, worker: int) -> ScoringJob:
        """Return the job with the teacher that a worker loads.

        Raises:
            InputError: in this place workers would not keep out of each other's way.
        """
        self.writer.place.check_locks()
        return replace(self, teacher=self.teacher.for_worker(worker), is_alone=False)

    def working(self) -> AbstractContextManager[object]:
        """Keep others from beginning in the place, and the teacher's progress from being shown."""
        load_quietly()
        return self.writer.working()

    def run(self, units: Iterable[int]) -> Generator[Event]:
        """Load the teacher when it is first needed, and run units.

        Raises:
            TeacherError: the teacher cannot be loaded.
            StoreError: the system refused to write.
        """
        if self._scorer is None:
            self.teacher.load()
            targets = self.writer.targets
            self._scorer = Scorer(
                self.teacher, self.selection, targets, self.batch_tokens, self.task.segments
            )
        # In a directory there is nothing to wait for.
        looks_ahead = self.is_alone and not self.writer.place.has_locks
        return run_units(self._scorer, self.teacher, self.writer, units, looks_ahead=looks_ahead)

    def recorded(self, unit: int) -> ShardEntry | None:
        """Return the entry of a unit that is done, or None."""
        return self.writer.read_record(unit)


def run_units(
    scorer: Scorer,
    teacher: Teacher,
    writer: StoreWriter,
    units: Iterable[int],
    *,
    looks_ahead: bool = False,
) -> Generator[Event]:
    """Score and write units, in order, and yield what becomes of them.

    What the writing thread raises is raised here as soon as the batch that is being read is done.

    Args:
        scorer: of the teacher, which is loaded.
        teacher: for the unit's record.
        writer: of the store.
        units: asked for one by one.
        looks_ahead: whether a thread asks for a unit when little of the one before is left.

    Raises:
        ServerError, StoreError: a server or an engine is gone; or the system refused to write.
    """
    writing: list[tuple[int, Future[ShardEntry]]] = []
    read = partial(_windows_or_entry, writer)
    with ThreadPoolExecutor(1, "softtargets-write") as thread, UnitsAhead(units, read) as ahead:
        for unit, windows in ahead:
            if isinstance(windows, ShardEntry):
                yield Done(windows)
                continue
            batches: list[ScoredBatch] = []
            look = ahead.look if looks_ahead else None
            failed = yield from _score(scorer, unit, windows, batches, writing, look)
            if writing:
                yield _written(*writing.pop())
            if failed is not None:
                yield failed
                continue
            run = {"device": teacher.device.type, "batch_tokens": scorer.batch_tokens}
            writing.append((unit, thread.submit(write_unit, writer, unit, windows, batches, run)))
        yield from (_written(*one) for one in writing)


def _score(
    scorer: Scorer,
    unit: int,
    windows: Sequence[TokenWindow],
    batches: list[ScoredBatch],
    writing: list[tuple[int, Future[ShardEntry]]],
    look: Callable[[], None] | None,
) -> Generator[Event, None, Failed | None]:
    """Score a unit into batches, yield what happens, and return what it failed by, if it did."""
    num_left = sum(map(len, windows))
    try:
        for batch in _scored(scorer, windows):
            batches.append(batch)
            num_left -= batch.num_tokens
            # Earlier, the next unit would be kept from a process that has nothing to do.
            if look is not None and num_left <= _LOOK_BATCHES * scorer.batch_tokens:
                look()
            yield Scored(unit, batch.num_first, batch.num_tokens)
            if writing and writing[0][1].done():
                yield _written(*writing.pop())
    except UnitError as error:
        return Failed(unit, str(error))
    return None


def _windows_or_entry(writer: StoreWriter, unit: int) -> list[TokenWindow] | ShardEntry:
    """Return the windows of a unit, or its entry if others have committed the store meanwhile."""
    try:
        return read_unit(writer.place, unit)
    except FormatError:
        entry = writer.read_record(unit)
        if entry is None:
            raise
        return entry


def _scored(scorer: Scorer, windows: Sequence[TokenWindow]) -> Iterator[ScoredBatch]:
    try:
        yield from scorer.score(windows)
    except ServerError:
        # No other unit can be scored either.
        raise
    except Exception as error:
        cause = error if isinstance(error, SoftTargetsError) else _unexpected(error)
        raise UnitError(str(cause)) from error


def _written(unit: int, writing: Future[ShardEntry]) -> Done | Failed:
    try:
        return Done(wait_for(writing))
    except TeacherError as error:
        # Its logits were no numbers. Any other error is about the store, and everybody's.
        return Failed(unit, str(error))


def wait_for(writing: Future[ShardEntry]) -> ShardEntry:
    """Return the entry of a unit when it is written, or raise what its thread raised."""
    return writing.result()


def _unexpected(error: Exception) -> TeacherError:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return TeacherError(
        f"{Path(last.filename).name}, line {last.lineno}",
        expected="a unit to be scored",
        found=f"{type(error).__name__}: {error}",
        next_step="If the message does not help, please report it.",
    )


def write_unit(
    writer: StoreWriter,
    unit: int,
    windows: Sequence[TokenWindow],
    batches: Sequence[ScoredBatch],
    run: Mapping[str, Any],
) -> ShardEntry:
    """Pack the windows of a unit and write its shard, in the order of the corpus."""
    errors: dict[str, RoundingError] = {}
    packed = pack_windows(windows, batches, writer.targets, errors)
    return writer.write_unit(unit, packed, noted(run, errors))
