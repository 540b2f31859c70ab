"""Running units in one process: the teacher reads the next while a thread writes the last."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from softtargets.capture.plan import read_unit
from softtargets.capture.progress import Tally
from softtargets.capture.queue import UnitQueue
from softtargets.capture.score import ScoredBatch, Scorer, pack_windows
from softtargets.capture.teacher import Teacher
from softtargets.errors import SoftTargetsError, TeacherError
from softtargets.store.shard_table import ShardEntry
from softtargets.store.writer import StoreWriter
from softtargets.window import TokenWindow


class UnitError(Exception):
    """A unit could not be scored or packed; others may."""

    def __init__(self, unit: int, cause: SoftTargetsError) -> None:
        super().__init__(unit, cause)
        self.unit = unit
        self.cause = cause


def run_queue(
    queue: UnitQueue, scorer: Scorer, teacher: Teacher, writer: StoreWriter, tally: Tally
) -> None:
    """Run units here until none can be had; one that fails is put into the queue again.

    Raises:
        StoreError: the system refused to write.
    """
    num_windows, num_tokens = Counter[int](), Counter[int]()

    def on_batch(unit: int, batch: ScoredBatch) -> None:
        num_windows[unit] += batch.num_first
        num_tokens[unit] += batch.num_tokens
        tally.add(batch.num_first, batch.num_tokens)

    def on_written(entry: ShardEntry) -> None:
        queue.finish(entry.unit)
        del num_windows[entry.unit], num_tokens[entry.unit]
        tally.write(entry)

    is_done = False
    while not is_done:
        try:
            run_units(scorer, teacher, writer, queue, on_batch=on_batch, on_written=on_written)
            is_done = True
        except UnitError as error:
            queue.fail(error.unit, str(error.cause))
            queue.put_back()
            tally.add(-num_windows.total(), -num_tokens.total())
            num_windows.clear()
            num_tokens.clear()


def run_units(
    scorer: Scorer,
    teacher: Teacher,
    writer: StoreWriter,
    units: Iterable[int],
    *,
    on_batch: Callable[[int, ScoredBatch], None],
    on_written: Callable[[ShardEntry], None],
) -> None:
    """Score and write units, in order.

    What the writing thread raises is raised here as soon as the batch that is being read is done.

    Args:
        scorer: of a teacher that is loaded.
        teacher: the same, for the unit's record.
        writer: of the store.
        units: their numbers; asked for one by one.
        on_batch: called with the unit and each of its batches when it is scored.
        on_written: called with each unit's entry when its shard and record are durable.

    Raises:
        UnitError: a unit cannot be scored or packed; units before it are written.
        StoreError: the system refused to write.
    """
    writing: tuple[int, Future[ShardEntry]] | None = None
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="softtargets-write") as thread:
        for unit in units:
            windows = read_unit(writer.work, unit)
            batches = []
            try:
                for batch in _scored(unit, scorer, windows):
                    batches.append(batch)
                    on_batch(unit, batch)
                    if writing is not None and writing[1].done():
                        done, writing = writing, None
                        on_written(_wait(*done))
            except UnitError:
                if writing is not None:
                    on_written(_wait(*writing))
                raise
            if writing is not None:
                on_written(_wait(*writing))
            run = {"device": teacher.device.type, "batch_tokens": scorer.batch_tokens}
            writing = unit, thread.submit(write_unit, writer, unit, windows, batches, run)
        if writing is not None:
            on_written(_wait(*writing))


def _scored(unit: int, scorer: Scorer, windows: Sequence[TokenWindow]) -> Iterator[ScoredBatch]:
    try:
        yield from scorer.score(windows)
    except Exception as error:
        cause = error if isinstance(error, SoftTargetsError) else _unexpected(error)
        raise UnitError(unit, cause) from error


def _wait(unit: int, writing: Future[ShardEntry]) -> ShardEntry:
    try:
        return wait_for(writing)
    except TeacherError as error:
        # Its logits were no numbers. Any other error is about the store, and everybody's.
        raise UnitError(unit, error) from error


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
    return writer.write_unit(unit, pack_windows(windows, batches, writer.targets), run)
