"""Build a store: plan the units, have an engine run those that are not done, commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from softtargets.capture.build_config import BuildConfig
from softtargets.capture.calibration import find_drift
from softtargets.capture.identity import describe_build
from softtargets.capture.planning import make_plan
from softtargets.capture.segments import name_documents
from softtargets.capture.stored_weights import StoredWeights, read_weights
from softtargets.capture.tally import Progress, Tally
from softtargets.capture.teacher import Teacher
from softtargets.capture.unit_plan import Plan, read_plan, read_unit
from softtargets.capture.unit_queue import UnitQueue
from softtargets.capture.units import ScoringJob
from softtargets.engines import Done, Engine, Event, Scored, local_engine
from softtargets.engines.engine import MOST_ATTEMPTS
from softtargets.errors import FormatError, InputError, StoreError
from softtargets.places.open_place import place_to_write
from softtargets.places.place import Place
from softtargets.store import Store
from softtargets.store.drift import read_drift, write_drift
from softtargets.store.layer_file import encode_layers
from softtargets.store.ledger import Ledger
from softtargets.store.output_head import encode_output_head
from softtargets.store.request import read_identity
from softtargets.store.shard_table import ShardEntry
from softtargets.store.vocabulary import encode_vocabulary
from softtargets.store.writer import StoreWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """A committed store, and how much of it this call did."""

    store: Store
    num_units: int
    num_units_before: int
    """Units that an earlier call had done."""
    was_complete: bool
    """Whether the store was committed before this call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeResult:
    """What is done of a store that is built range by range."""

    num_units: int
    num_done: int
    """Units that are done, by this call and by others."""


def build(
    config: BuildConfig,
    teacher: Teacher,
    on_progress: Callable[[Progress], None] = lambda _: None,
    *,
    engine: Engine | None = None,
    place: Place | None = None,
) -> BuildResult:
    """Build a store, or continue one, or find it complete.

    A unit that is done stays done: after an exception, Ctrl-C or SIGKILL the same call continues,
    and the shards are the same bytes as those of an uninterrupted build.

    Args:
        config: what to build.
        teacher: that is run.
        on_progress: called when windows were scored or a shard was written.
        engine: runs the units; by default this process does, or as many as `config.workers`.
        place: where the store is written, if not in the directory `config.output`.

    Raises:
        InputError: an option is out of range.
        CorpusError, TeacherError: the input or the model is wrong.
        StoreError, IdentityError, BusyError: the output directory is taken, or cannot be written;
            or units failed three times, and all others are done.
    """
    weights = read_weights(config, teacher)
    identity = describe_build(config, teacher, weights)
    with StoreWriter.hold(place or config.output, identity) as writer:
        was_complete, num_before = writer.is_complete, 0
        if not was_complete:
            with writer.turns.planning():
                plan = _plan(config, teacher, writer, weights, engine)
            if plan is not None:
                num_before = len(writer.recorded())
                _run(config, teacher, writer, plan, on_progress, engine)
                writer.commit(len(plan.units), plan.teacher, plan.corpus)
    store = Store.open(writer.place)
    num_units = len(store.manifest.shards)
    return BuildResult(
        store=store,
        num_units=num_units,
        num_units_before=num_units if was_complete else num_before,
        was_complete=was_complete,
    )


def build_range(
    config: BuildConfig,
    teacher: Teacher,
    start: int,
    stop: int | None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    *,
    engine: Engine | None = None,
    place: Place | None = None,
) -> RangeResult:
    """Run units [start, stop) of a store, beside other processes and machines that do the same.

    The first of them plans for all. Ranges may overlap: a unit is run by one process at a time, and
    what a process leaves that dies is taken by another whose range has it. `commit` makes the store
    when all units are done; whoever ran them, it is the same store.

    Raises:
        InputError: an option is out of range, or there are no such units.
        CorpusError, TeacherError: the input or the model is wrong.
        StoreError, IdentityError, BusyError: the output directory is taken by another store or a
            whole build, or cannot be written; or units failed three times.
    """
    weights = read_weights(config, teacher)
    identity = describe_build(config, teacher, weights)
    with StoreWriter.join(place or config.output, identity) as writer:
        if not writer.is_complete:
            with writer.turns.planning():
                plan = _plan(config, teacher, writer, weights, engine)
            if plan is not None:
                units = _checked_range(start, stop, len(plan.units))
                _run(config, teacher, writer, plan, on_progress, engine, units)
                num_done = len(writer.recorded())
                if not writer.is_complete:
                    return RangeResult(num_units=len(plan.units), num_done=num_done)
        num_units = len(Store.open(writer.place).manifest.shards)
        return RangeResult(num_units=num_units, num_done=num_units)


def _checked_range(start: int, stop: int | None, num_units: int) -> range:
    units = range(start, num_units if stop is None else stop)
    if not 0 <= start < units.stop <= num_units:
        raise InputError(
            "--unit-range",
            expected=f"A:B with 0 <= A < B <= {num_units}, the number of units",
            found=f"{start}:{'' if stop is None else stop}",
            next_step="Omit B for all units from A on.",
        )
    return units


def commit(output: Path | Place) -> Store:
    """Make a store of a directory or place all of whose units are done.

    Raises:
        StoreError: units are missing; the message lists them. Or nothing is built there.
        BusyError: a process is still at work in it.
    """
    place = place_to_write(output)
    with Ledger.hold(place, read_identity(place)) as ledger:
        if not ledger.is_complete:
            plan = _read_plan(ledger)
            if plan is not None:
                ledger.commit(len(plan.units), plan.teacher, plan.corpus)
            elif not ledger.is_complete:
                raise StoreError(
                    str(place),
                    expected="a build whose units are planned",
                    found="one that stopped before that",
                    next_step="Run softtargets build.",
                )
    return Store.open(place)


def _plan(
    config: BuildConfig,
    teacher: Teacher,
    ledger: Ledger,
    weights: StoredWeights,
    engine: Engine | None,
) -> Plan | None:
    """Return the plan, which is made if there is none; None if another process has committed."""
    # With rounded hidden states a store has no head.
    if weights.head is not None and ledger.targets.output_head is not None:
        ledger.write_output_head(encode_output_head(weights.head))
    if weights.layers is not None:
        ledger.write_layers(encode_layers(weights.layers))
    plan = _read_plan(ledger)
    if plan is None:
        if ledger.is_complete:
            return None
        ledger.write_vocabulary(encode_vocabulary(teacher.tokenizer.vocabulary()))
        plan = _made_plan(config, teacher, ledger, engine)
        if plan is None:
            return None
    if config.reference is not None and not read_drift(ledger.place):
        drift = find_drift(config, teacher, read_unit(ledger.place, 0))
        write_drift(ledger.place, drift.to_dict())
    return plan


def _read_plan(ledger: Ledger) -> Plan | None:
    """Return the plan that is there; None if there is none, or another process has committed."""
    try:
        return read_plan(ledger.place, ledger.fingerprint)
    except FormatError:
        # Between two files that are read, it may have removed the second.
        if not ledger.is_complete:
            raise
        return None


def _made_plan(
    config: BuildConfig, teacher: Teacher, ledger: Ledger, engine: Engine | None
) -> Plan | None:
    try:
        return make_plan(config, teacher, ledger, engine or local_engine(config.workers))
    except StoreError:
        # Another process that planned the same may have committed, and removed what is read.
        if not ledger.is_complete:
            raise
        return None


def _run(
    config: BuildConfig,
    teacher: Teacher,
    writer: StoreWriter,
    plan: Plan,
    on_progress: Callable[[Progress], None],
    engine: Engine | None,
    units: Sequence[int] | None = None,
) -> None:
    """Run every unit that has no record yet; of some, if other processes run the rest.

    Raises:
        StoreError: units failed three times; all others are done.
    """
    recorded = writer.recorded()
    if writer.is_complete:  # Another process has committed, and removed records.
        return
    tally = Tally(plan, recorded, on_progress)
    missing = [unit for unit in units or range(len(plan.units)) if unit not in recorded]
    job = ScoringJob(
        teacher=teacher,
        task=config.capture_task,
        writer=writer,
        selection=config.selection,
        batch_tokens=config.batch_tokens,
    )
    engine = engine or local_engine(config.workers)
    # The queue may be asked by a thread, which is to leave the tally alone.
    by_others = SimpleQueue[ShardEntry]()
    with closing(UnitQueue(writer, writer.turns.own_order(missing), by_others.put)) as queue:
        while queue:
            with closing(engine.run(job, queue.take)) as events:
                for event in events:
                    _note(event, queue, tally)
                    _finish(by_others, tally)
            _finish(by_others, tally)
            if queue:
                queue.wait()
    if queue.failed:
        raise _units_failed(queue.failed, writer.place)


def _note(event: Event, queue: UnitQueue, tally: Tally) -> None:
    if isinstance(event, Scored):
        tally.score(event)
    elif isinstance(event, Done):
        assert isinstance(event.entry, ShardEntry)
        queue.finish(event.entry)
        tally.finish(event.entry)
    else:
        queue.fail(event.unit, event.error)
        tally.drop(event.unit)


def _finish(by_others: SimpleQueue[ShardEntry], tally: Tally) -> None:
    while not by_others.empty():
        tally.finish(by_others.get())


def _units_failed(failed: dict[int, str], place: Place) -> StoreError:
    """Return the error of units that failed too often, with the first one's documents and error."""
    unit, error = min(failed.items())
    return StoreError(
        str(place),
        expected="every unit done",
        found=f"{len(failed)} that failed {MOST_ATTEMPTS} times (units "
        f"{', '.join(str(one) for one in sorted(failed)[:10])}). Unit {unit}, with "
        f"{name_documents(read_unit(place, unit))}: {error}",
        next_step="Mend what the error names, and run the same command again; all others are done.",
    )
