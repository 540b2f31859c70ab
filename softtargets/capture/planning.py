"""Planning: a corpus is read and tokenised once, and its windows are written unit by unit.

Bad input is so found before the teacher has cost anything. A small corpus is planned in one go. A
larger one is planned in stages, which several processes share, and each of which goes on where it
was interrupted:

    map       a slice of the corpus: write its pieces, and their keys by partition
    reduce    a partition of the keys: write which pieces a piece before them repeats
    assemble  the pieces that are left: make windows of them, and write these unit by unit

The plan is the same, byte for byte, whoever made it and in how many slices.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import closing

import numpy as np

from softtargets.capture.build_config import BuildConfig, CaptureTask
from softtargets.capture.corpus import Corpus
from softtargets.capture.corpus_reading import (
    MOST_WARNINGS,
    finish_counts,
    no_window,
    read_windows,
    warn_left_out,
)
from softtargets.capture.planned_units import UnitSizes
from softtargets.capture.planning_jobs import MapJob, PlanningJob, ReduceJob
from softtargets.capture.slice_files import SliceFiles
from softtargets.capture.teacher import Teacher
from softtargets.capture.unit_plan import Plan, write_plan, write_unit_windows
from softtargets.capture.unused import UnusedTally
from softtargets.capture.windows import stored_counts
from softtargets.engines import Engine, Failed
from softtargets.engines.engine import MOST_ATTEMPTS
from softtargets.errors import StoreError
from softtargets.store.ledger import Ledger
from softtargets.window import TokenWindow, cut_windows

SLICE_BYTES = 1 << 26
"""Content of a slice, about. A corpus that has no more is planned in one go."""
_MOST_SLICES = 1024
_PARTITION_BYTES = 1 << 30
"""Content of a corpus for which there is another partition."""
_MOST_PARTITIONS = 256


def make_plan(config: BuildConfig, teacher: Teacher, ledger: Ledger, engine: Engine) -> Plan:
    """Cut a corpus into units of at least `config.unit_tokens` tokens and write them to a place.

    Args:
        config: of the build.
        teacher: whose tokenizer reads the corpus.
        ledger: of the store.
        engine: runs the parts of a stage.

    Raises:
        CorpusError: a file is wrong, or no document gives a window.
        StoreError: the place refused, or a part of a stage failed three times.
    """
    place, counts = ledger.place, Counter[str]()
    place.make_directory("work/plan")
    if is_planned_at_once(config):
        windows = read_windows(config, teacher.tokenizer, counts, UnusedTally())
    else:
        windows = _staged_windows(config, teacher, ledger, engine, counts)
    sizes = UnitSizes()
    for group in cut_windows(windows, config.unit_tokens):
        write_unit_windows(place, len(sizes), group)
        sizes.add(group)
    if not len(sizes):
        raise no_window(config.corpus, counts)
    plan = Plan(units=sizes.units(), corpus=stored_counts(counts), teacher=teacher.name)
    write_plan(plan, place, ledger.fingerprint)
    return plan


def is_planned_at_once(config: BuildConfig) -> bool:
    """Return whether a corpus is small, or its task reads it as a whole."""
    has_pieces = type(config.capture_task).windows is CaptureTask.windows
    content_bytes = config.corpus.content_bytes
    return not has_pieces or (content_bytes is not None and content_bytes <= SLICE_BYTES)


def _staged_windows(
    config: BuildConfig, teacher: Teacher, ledger: Ledger, engine: Engine, counts: Counter[str]
) -> Iterator[TokenWindow]:
    """Run the stages of planning, and yield every window of the build."""
    content_bytes = config.corpus.content_bytes or 0
    slice_bytes = max(SLICE_BYTES, content_bytes // _MOST_SLICES)
    slices = config.corpus.slices(slice_bytes) if isinstance(config.corpus, Corpus) else [None]
    num_partitions = 1
    while num_partitions < min(content_bytes / _PARTITION_BYTES, _MOST_PARTITIONS):
        num_partitions *= 2
    slicing = {
        "version": 1,
        "fingerprint": ledger.fingerprint,
        "slice_bytes": slice_bytes,
        "num_slices": len(slices),
        "num_partitions": num_partitions,
    }
    files = SliceFiles.begin(ledger.place, slicing)
    mapping = MapJob(
        config=config, teacher=teacher, ledger=ledger, files=files, slices=tuple(slices),
        num_partitions=num_partitions,
    )  # fmt: skip
    _run_stage(engine, mapping)
    reducing = ReduceJob(
        teacher=teacher, ledger=ledger, files=files, num_slices=len(slices),
        num_partitions=num_partitions,
    )  # fmt: skip
    _run_stage(engine, reducing)
    unused = UnusedTally()
    _add_counts(files, len(slices), num_partitions, counts, unused)
    pieces = _kept_pieces(files, len(slices), num_partitions)
    yield from config.capture_task.assemble(pieces, config, teacher.tokenizer, counts)
    finish_counts(counts, unused)


def _run_stage(engine: Engine, job: PlanningJob) -> None:
    """Run the parts of a stage that are not done.

    Raises:
        StoreError: one failed three times.
    """
    attempts = Counter[int]()
    left = deque(part for part in range(job.num_parts) if job.recorded(part) is None)
    while left:
        with closing(engine.run(job, lambda: left.popleft() if left else None)) as events:
            for event in events:
                if isinstance(event, Failed):
                    attempts[event.unit] += 1
                    if attempts[event.unit] == MOST_ATTEMPTS:
                        raise _part_failed(job, event)
                    left.append(event.unit)


def _part_failed(job: PlanningJob, failed: Failed) -> StoreError:
    return StoreError(
        job.where,
        expected="the corpus planned",
        found=f"part {failed.unit} of stage '{job.stage}' that failed {MOST_ATTEMPTS} times: "
        f"{failed.error}",
        next_step="Mend what the error names, and run the same command again; the other parts "
        "are not planned again.",
    )


def _add_counts(
    files: SliceFiles,
    num_slices: int,
    num_partitions: int,
    counts: Counter[str],
    unused: UnusedTally,
) -> None:
    """Add what was counted of all slices, and tell what was left out first."""
    left_out: list[str] = []
    for number in range(num_slices):
        found = files.done("mapped", number)
        counts.update(found["counts"])
        unused.add_counts(found["unused"])
        left_out += found["left_out"]
    for error in left_out[:MOST_WARNINGS]:
        warn_left_out(error)
    for _, _, _, num_repeats in _repeats(files, num_partitions):
        counts["repeated_windows"] += num_repeats


def _repeats(files: SliceFiles, num_partitions: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield slice, partition, flush and number of all repeats that were found."""
    for partition in range(num_partitions):
        for flush, slices in enumerate(files.done("reduced", partition)["flushes"]):
            for number, num_repeats in slices:
                yield number, partition, flush, num_repeats


def _kept_pieces(files: SliceFiles, num_slices: int, num_partitions: int) -> Iterator[TokenWindow]:
    """Yield the pieces that no piece before them repeats, in the order of the corpus."""
    repeats: dict[int, list[tuple[int, int, int]]] = {}
    for number, *found in _repeats(files, num_partitions):
        partition, flush, num_repeats = found
        repeats.setdefault(number, []).append((partition, flush, num_repeats))
    for number in range(num_slices):
        chunks = files.done("mapped", number)["chunks"]
        is_kept_N = np.ones(sum(chunks), np.bool_)
        for partition, flush, num_repeats in repeats.get(number, ()):
            is_kept_N[files.repeats(number, partition, flush, num_repeats)] = False
        yield from _chunks(files, number, np.split(is_kept_N, np.cumsum(chunks)[:-1]))


def _chunks(
    files: SliceFiles, number: int, are_kept: Iterable[np.ndarray[tuple[int], np.dtype[np.bool_]]]
) -> Iterator[TokenWindow]:
    for chunk, is_kept_N in enumerate(are_kept):
        if is_kept_N.any():
            yield from files.pieces(number, chunk, is_kept_N)
