"""Build a store: plan the units, run those that are not done, commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from softtargets.capture.keep.selection import (
    Hybrid,
    Keep,
    Selection,
    Values,
    check_temperatures,
    describe_selection,
    schema_parts,
)
from softtargets.capture.memory import enough_memory, free_memory
from softtargets.capture.plan import AnyCorpus, Plan, make_plan, read_plan
from softtargets.capture.progress import Progress, Tally
from softtargets.capture.queue import UnitQueue
from softtargets.capture.score import Scorer
from softtargets.capture.teacher import Teacher
from softtargets.capture.units import run_queue
from softtargets.capture.windows import Windowing
from softtargets.capture.workers import Job, run_workers
from softtargets.errors import InputError, StoreError, TeacherError
from softtargets.kinds import LAST_HIDDEN, FeatureSchema, TargetSchema
from softtargets.store import Store
from softtargets.store.output_head import describe_output_head, encode_output_head
from softtargets.store.schema import Compression
from softtargets.store.versions import FORMAT_VERSION
from softtargets.store.vocabulary import encode_vocabulary
from softtargets.store.writer import StoreWriter, read_request
from softtargets.targets import HeadWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """What to build. All but `output`, `batch_tokens` and `workers` decide the store's content."""

    corpus: AnyCorpus
    output: Path
    windowing: Windowing = field(default_factory=Windowing)
    selection: Selection = field(default_factory=Hybrid)
    temperatures: tuple[float, ...] = (1.0,)
    values: Values = "steps"
    """Whether logits are kept in steps (the head's of 1/16 nat, drawn ones of 1/64) or lossless."""
    label_logits: bool = True
    """Whether the label's logit and rank are kept."""
    hidden_states: bool = False
    """Whether the teacher's last hidden states and its output head are kept too, from which the
    full distribution is recomputed."""
    compression: Compression = "zstd"
    unit_tokens: int = 65_536
    """Tokens after which a unit, and so a shard, ends; what a crash can cost."""
    batch_tokens: int = 4096
    """Tokens of a forward pass; changes numbers by rounding noise only."""
    workers: int = 1
    """Processes that run units; with several CUDA devices each takes one in turn."""


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
) -> BuildResult:
    """Build a store, or continue one, or find it complete.

    A unit that is done stays done: after an exception, Ctrl-C or SIGKILL the same call continues,
    and the shards are the same bytes as those of an uninterrupted build.

    Raises:
        InputError: an option is out of range.
        CorpusError, TeacherError: the input or the model is wrong.
        StoreError, IdentityError, BusyError: the output directory is taken, or cannot be written;
            or units failed three times, and all others are done.
    """
    head = read_output_head(config, teacher)
    identity = describe_build(config, teacher, head)
    with StoreWriter.hold(config.output, identity) as writer:
        if writer.is_complete:
            store = Store.open(config.output)
            num_units = len(store.manifest.shards)
            return BuildResult(
                store=store, num_units=num_units, num_units_before=num_units, was_complete=True
            )
        plan = _plan(config, teacher, writer, head)
        done_before = len(writer.recorded())
        _run(config, teacher, writer, plan, on_progress)
        writer.commit(len(plan.units), plan.teacher, plan.corpus)
    return BuildResult(
        store=Store.open(config.output),
        num_units=len(plan.units),
        num_units_before=done_before,
        was_complete=False,
    )


def build_range(
    config: BuildConfig,
    teacher: Teacher,
    start: int,
    stop: int | None,
    on_progress: Callable[[Progress], None] = lambda _: None,
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
    head = read_output_head(config, teacher)
    identity = describe_build(config, teacher, head)
    with StoreWriter.join(config.output, identity) as writer:
        if writer.is_complete:
            num_units = len(Store.open(config.output).manifest.shards)
            return RangeResult(num_units=num_units, num_done=num_units)
        with writer.planning():
            plan = _plan(config, teacher, writer, head)
        num_units = len(plan.units)
        if not 0 <= start < (num_units if stop is None else stop) <= num_units:
            raise InputError(
                "--unit-range",
                expected=f"A:B with 0 <= A < B <= {num_units}, the number of units",
                found=f"{start}:{'' if stop is None else stop}",
                next_step="Leave B away for all units from A on.",
            )
        units = range(start, num_units if stop is None else stop)
        _run(config, teacher, writer, plan, on_progress, units)
        return RangeResult(num_units=num_units, num_done=len(writer.recorded()))


def commit(output: Path) -> Store:
    """Make a store of a directory all of whose units are done.

    Raises:
        StoreError: units are missing; the message lists them. Or nothing is built there.
        BusyError: a process is still at work in it.
    """
    with StoreWriter.hold(output, read_request(output)) as writer:
        if not writer.is_complete:
            plan = read_plan(writer.work)
            if plan is None:
                raise StoreError(
                    str(output),
                    expected="a build whose units are planned",
                    found="one that stopped before that",
                    next_step="Run softtargets build.",
                )
            writer.commit(len(plan.units), plan.teacher, plan.corpus)
    return Store.open(output)


def read_output_head(config: BuildConfig, teacher: Teacher) -> HeadWeights | None:
    """Return the teacher's output head, which loads it; None when it is not to be stored.

    Raises:
        TeacherError: the teacher cannot be loaded, or its head cannot be stored.
    """
    if not config.hidden_states:
        return None
    loaded = teacher.for_worker(0) if config.workers > 1 else teacher
    loaded.load()
    next_step = "Pass fewer --workers, or another --device."
    with enough_memory(loaded.name, "its output head", loaded.device, next_step):
        head = loaded.output_head()
    if loaded is not teacher:
        # Workers load their own, and need the memory that this one had.
        device = loaded.device
        del loaded
        free_memory(device)
    return head


def _plan(
    config: BuildConfig, teacher: Teacher, writer: StoreWriter, head: HeadWeights | None
) -> Plan:
    if head is not None:
        writer.write_output_head(encode_output_head(head))
    if (plan := read_plan(writer.work)) is not None:
        return plan
    writer.write_vocabulary(encode_vocabulary(teacher.tokenizer.vocabulary()))
    return make_plan(config.corpus, config.windowing, teacher, config.unit_tokens, writer.work)


def describe_build(
    config: BuildConfig, teacher: Teacher, head: HeadWeights | None = None
) -> dict[str, Any]:
    """Return the identity of what would be built: everything that decides its content.

    Args:
        config: of the build.
        teacher: that it runs; it need not be loaded.
        head: what `read_output_head` returned.

    Raises:
        InputError: an option is out of range.
        CorpusError, TeacherError: a file or the model cannot be read.
    """
    temperatures = check_temperatures(config.temperatures)
    teacher.check(
        Keep(
            selection=config.selection,
            temperatures=temperatures,
            label_logits=config.label_logits,
            hidden_states=config.hidden_states,
        )
    )
    for option, value in (
        ("--unit-tokens", config.unit_tokens),
        ("--batch-tokens", config.batch_tokens),
        ("--workers", config.workers),
    ):
        if value < 1:
            raise InputError(
                option,
                expected="a positive number",
                found=str(value),
                next_step="Leave it away for the default.",
            )
    targets = TargetSchema(
        vocab_size=teacher.vocab_size,
        tokenizer_vocab_size=teacher.tokenizer.vocab_size,
        temperatures=temperatures,
        **schema_parts(config.selection, config.values, temperatures),
        label_logits=config.label_logits,
        **({} if head is None else hidden_state_parts(head, teacher)),
        positions="listed" if config.corpus.lists_positions else "all",
        metadata=config.corpus.metadata_fields,
    )
    corpus = config.corpus.describe()
    if config.corpus.messages_field is not None:
        corpus = teacher.tokenizer.describe_chat() | corpus
    return {
        "format_version": FORMAT_VERSION,
        "teacher": teacher.describe(),
        "tokenizer": teacher.tokenizer.describe(),
        "corpus": corpus,
        "windowing": config.windowing.describe(),
        "selection": describe_selection(config.selection),
        "targets": targets.to_dict(),
        "unit_tokens": config.unit_tokens,
        "compression": config.compression,
    }


def hidden_state_parts(head: HeadWeights, teacher: Teacher) -> dict[str, Any]:
    """Return the parts of a `TargetSchema` that keep hidden states and output head.

    Raises:
        TeacherError: the head is not as wide as the teacher's vocabulary.
    """
    if len(head.weight_VD) != teacher.vocab_size:
        raise TeacherError(
            teacher.name,
            expected=f"an output head of {teacher.vocab_size:,} rows, as its configuration says",
            found=f"{len(head.weight_VD):,}",
            next_step="Correct vocab_size in the model's config.json.",
        )
    described = describe_output_head(head)
    feature = FeatureSchema(
        name=LAST_HIDDEN, width=described.width, rows="targets", dtype=described.dtype
    )
    return {"features": (feature,), "output_head": described}


def _run(
    config: BuildConfig,
    teacher: Teacher,
    writer: StoreWriter,
    plan: Plan,
    on_progress: Callable[[Progress], None],
    units: Sequence[int] | None = None,
) -> None:
    """Run every unit that has no record yet, here or in workers; of some, if others run the rest.

    Raises:
        StoreError: units failed three times; all others are done.
    """
    recorded = writer.recorded()
    tally = Tally(plan, recorded, on_progress)
    wanted = range(len(plan.units)) if units is None else units
    missing = [unit for unit in wanted if unit not in recorded]
    queue = UnitQueue(writer, missing, tally, is_shared=units is not None)
    run: Callable[[], None]
    if config.workers > 1:
        job = Job(
            root=config.output,
            identity=writer.identity,
            selection=config.selection,
            batch_tokens=config.batch_tokens,
        )
        run = partial(run_workers, job, teacher, writer, queue, config.workers, tally)
    elif missing:
        teacher.load()
        scorer = Scorer(teacher, config.selection, writer.targets, config.batch_tokens)
        run = partial(run_queue, queue, scorer, teacher, writer, tally)
    while queue:
        run()
        if queue:
            queue.wait()
    queue.raise_failed()
