"""Running units in one process: the teacher reads the next while a thread writes the last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from softtargets.capture.plan import read_unit
from softtargets.capture.score import ScoredBatch, Scorer
from softtargets.capture.teacher import Teacher
from softtargets.store.manifest import ShardEntry
from softtargets.store.writer import StoreWriter
from softtargets.window import TokenWindow


def run_units(
    scorer: Scorer,
    teacher: Teacher,
    writer: StoreWriter,
    units: Iterable[int],
    *,
    on_batch: Callable[[Sequence[TokenWindow]], None],
    on_written: Callable[[ShardEntry], None],
) -> None:
    """Score and write units, in order.

    What the writing thread raises is raised here as soon as the batch that is being read is done.

    Args:
        scorer: of a teacher that is loaded.
        teacher: the same, for the unit's record.
        writer: of the store.
        units: their numbers; asked for one by one.
        on_batch: called with the windows of each batch when they are scored.
        on_written: called with each unit's entry when its shard and record are durable.
    """
    writing: Future[ShardEntry] | None = None
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="softtargets-write") as thread:
        for unit in units:
            batches = []
            for batch in scorer.score(read_unit(writer.work, unit)):
                batches.append(batch)
                on_batch(batch.windows)
                if writing is not None and writing.done():
                    on_written(wait_for(writing))
                    writing = None
            if writing is not None:
                on_written(wait_for(writing))
            run = {"device": teacher.device.type, "batch_tokens": scorer.batch_tokens}
            writing = thread.submit(write_unit, writer, unit, batches, run)
        if writing is not None:
            on_written(wait_for(writing))


def wait_for(writing: Future[ShardEntry]) -> ShardEntry:
    """Return the entry of a unit when it is written, or raise what its thread raised."""
    return writing.result()


def write_unit(
    writer: StoreWriter, unit: int, batches: Sequence[ScoredBatch], run: Mapping[str, Any]
) -> ShardEntry:
    """Pack the windows of a unit and write its shard, in the order of the corpus."""
    windows = dict(pair for batch in batches for pair in batch.pack(writer.targets))
    return writer.write_unit(unit, [windows[place] for place in range(len(windows))], run)
