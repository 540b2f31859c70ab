"""Planning: a corpus is read and tokenised once, and its windows are written unit by unit.

Bad input is so found before the teacher has cost anything. A small corpus is planned in one go. A
larger one is planned in stages, which several processes share, and each of which goes on where it
was interrupted:

    map     a slice of the corpus: write its pieces, and their keys by partition
    reduce  a partition of the keys: write which pieces a piece before them repeats
    write   the pieces of a slice that are left: write the units that begin in it

Where pieces are packed or masked, one process does the last stage, since a window is then more than
a piece.

The plan is the same, byte for byte, whoever made it and in how many slices.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from softtargets.capture.build_config import BuildConfig, CaptureTask
from softtargets.capture.corpus import Corpus
from softtargets.capture.corpus_reading import (
    MOST_WARNINGS,
    finish_counts,
    no_window,
    read_windows,
    warn_left_out,
)
from softtargets.capture.corpus_slices import CorpusSlice
from softtargets.capture.kept_pieces import KeptPieces, share_units
from softtargets.capture.planned_units import PlannedUnits, UnitSizes
from softtargets.capture.planning_jobs import MapJob, PlanningJob, ReduceJob, WriteJob
from softtargets.capture.slice_files import SliceFiles
from softtargets.capture.teacher import Teacher
from softtargets.capture.unit_plan import Plan, write_plan, write_units
from softtargets.capture.unused import UnusedTally
from softtargets.capture.windows import stored_counts
from softtargets.engines import Engine, Failed, run_all
from softtargets.engines.engine import MOST_ATTEMPTS
from softtargets.errors import StoreError
from softtargets.places.at_once import answers
from softtargets.store.ledger import Ledger
from softtargets.window import cut_windows

AT_ONCE_BYTES = 1 << 26
"""A corpus of no more content is planned in one go."""
SLICE_BYTES = 1 << 24
"""Content of a slice, about, unless there would be too many."""
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
        units = write_units(place, cut_windows(windows, config.unit_tokens)).units()
    else:
        units = _plan_in_stages(config, teacher, ledger, engine, counts)
    if not len(units):
        raise no_window(config.corpus, counts)
    plan = Plan(units=units, corpus=stored_counts(counts), teacher=teacher.name)
    write_plan(plan, place, ledger.fingerprint)
    return plan


def is_planned_at_once(config: BuildConfig) -> bool:
    """Return whether a corpus is small, or its task reads it as a whole."""
    has_pieces = type(config.capture_task).windows is CaptureTask.windows
    content_bytes = config.corpus.content_bytes
    return not has_pieces or (content_bytes is not None and content_bytes <= AT_ONCE_BYTES)


def _pieces_are_windows(config: BuildConfig) -> bool:
    """Return whether a task makes a window of each piece, so that slices are written apart."""
    is_own = type(config.capture_task).assemble is not CaptureTask.assemble
    return not is_own and config.windowing.kind != "pack"


def _plan_in_stages(
    config: BuildConfig, teacher: Teacher, ledger: Ledger, engine: Engine, counts: Counter[str]
) -> PlannedUnits:
    """Run the stages of planning, add to counts, and return the units, which are written."""
    slices, num_partitions = _cut(config)
    slicing = {
        "version": 1,
        "fingerprint": ledger.fingerprint,
        "slices": [None if own is None else own.describe() for own in slices],
        "num_partitions": num_partitions,
    }
    files = SliceFiles.begin(ledger.place, slicing)
    kept = KeptPieces(files=files, num_slices=len(slices), num_partitions=num_partitions)
    shared: dict[str, Any] = {"teacher": teacher, "ledger": ledger, "files": files}
    _run_stage(
        engine, MapJob(config=config, slices=slices, num_partitions=num_partitions, **shared)
    )
    _run_stage(engine, ReduceJob(num_slices=len(slices), num_partitions=num_partitions, **shared))
    unused = UnusedTally()
    _add_counts(kept, counts, unused)
    task, unit_tokens = config.capture_task, config.unit_tokens
    if _pieces_are_windows(config):
        shares = tuple(share_units(kept.lengths(), unit_tokens))
        _run_stage(engine, WriteJob(kept=kept, shares=shares, unit_tokens=unit_tokens, **shared))
        units = _written_units(files, len(slices))
        counts.update(windows=units.num_windows, tokens=units.num_tokens)
    else:
        windows = task.assemble(kept.read(), config, teacher.tokenizer, counts)
        units = write_units(ledger.place, cut_windows(windows, unit_tokens)).units()
    task.check_counts(counts)
    finish_counts(counts, unused)
    return units


def _cut(config: BuildConfig) -> tuple[tuple[CorpusSlice | None, ...], int]:
    """Return the slices of a corpus, and in how many partitions their keys are."""
    corpus, content_bytes = config.corpus, config.corpus.content_bytes or 0
    slice_bytes = max(SLICE_BYTES, content_bytes // _MOST_SLICES)
    slices = tuple(corpus.slices(slice_bytes)) if isinstance(corpus, Corpus) else (None,)
    num_partitions = 1
    while num_partitions < min(content_bytes / _PARTITION_BYTES, _MOST_PARTITIONS):
        num_partitions *= 2
    return slices, num_partitions


def _written_units(files: SliceFiles, num_slices: int) -> PlannedUnits:
    sizes = UnitSizes()
    for found in files.all_done("written", num_slices):
        sizes.extend(found)
    return sizes.units()


def _run_stage(engine: Engine, job: PlanningJob) -> None:
    """Run the parts of a stage that are not done.

    Raises:
        StoreError: one failed three times.
    """
    parts = range(job.num_parts)
    recorded = answers(job.ledger.place, job.recorded, parts)
    left = [part for part, own in zip(parts, recorded, strict=True) if own is None]
    failed = run_all(engine, job, left)
    if failed is not None:
        raise _part_failed(job, failed)


def _part_failed(job: PlanningJob, failed: Failed) -> StoreError:
    return StoreError(
        job.where,
        expected="the corpus planned",
        found=f"part {failed.unit} of stage '{job.stage}' that failed {MOST_ATTEMPTS} times: "
        f"{failed.error}",
        next_step="Mend what the error names, and run the same command again; the other parts "
        "are not planned again.",
    )


def _add_counts(kept: KeptPieces, counts: Counter[str], unused: UnusedTally) -> None:
    """Add what was counted of all slices, and tell what was left out first."""
    left_out: list[str] = []
    for found in kept.files.all_done("mapped", kept.num_slices):
        counts.update(found["counts"])
        unused.add_counts(found["unused"])
        left_out += found["left_out"]
    for error in left_out[:MOST_WARNINGS]:
        warn_left_out(error)
    counts["repeated_windows"] += kept.num_repeats
