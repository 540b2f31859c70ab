"""Build a store: plan the units, run those that are not done, commit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from softtargets.capture.corpus import Corpus
from softtargets.capture.plan import Plan, make_plan, read_plan
from softtargets.capture.progress import Progress, Tally
from softtargets.capture.score import Scorer
from softtargets.capture.select import TopK, check_temperatures
from softtargets.capture.teacher import Teacher
from softtargets.capture.units import run_units
from softtargets.capture.windows import Windowing
from softtargets.capture.workers import Job, run_workers
from softtargets.errors import InputError
from softtargets.kinds import HeadSchema, TargetSchema
from softtargets.store import Store
from softtargets.store.schema import Compression
from softtargets.store.versions import FORMAT_VERSION
from softtargets.store.writer import StoreWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """What to build. All but `output`, `batch_tokens` and `workers` decide the store's content."""

    corpus: Corpus
    output: Path
    windowing: Windowing = field(default_factory=Windowing)
    selection: TopK = field(default_factory=TopK)
    temperatures: tuple[float, ...] = (1.0,)
    values: Literal["steps", "float32"] = "steps"
    """Whether logits are kept in steps of 1/16 nat or lossless."""
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
        StoreError, IdentityError, BusyError: the output directory is taken, or cannot be written.
    """
    identity = describe_build(config, teacher)
    with StoreWriter.hold(config.output, identity) as writer:
        if writer.is_complete:
            store = Store.open(config.output)
            num_units = len(store.manifest.shards)
            return BuildResult(store=store, num_units=num_units, num_units_before=num_units)
        plan = read_plan(writer.work) or make_plan(
            config.corpus, config.windowing, teacher.tokenizer, config.unit_tokens, writer.work
        )
        done_before = len(writer.recorded())
        _run(config, teacher, writer, plan, on_progress)
        writer.commit(len(plan.units), teacher.name, plan.corpus)
    return BuildResult(
        store=Store.open(config.output), num_units=len(plan.units), num_units_before=done_before
    )


def describe_build(config: BuildConfig, teacher: Teacher) -> dict[str, Any]:
    """Return the identity of what would be built: everything that decides its content.

    Raises:
        InputError: an option is out of range.
        CorpusError, TeacherError: a file or the model cannot be read.
    """
    config.selection.check(teacher.vocab_size)
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
        temperatures=check_temperatures(config.temperatures),
        head=HeadSchema(max_entries=config.selection.k, values=config.values),
        label_logits=True,
    )
    return {
        "format_version": FORMAT_VERSION,
        "teacher": teacher.describe(),
        "tokenizer": teacher.tokenizer.describe(),
        "corpus": config.corpus.describe(),
        "windowing": config.windowing.describe(),
        "targets": targets.to_dict(),
        "unit_tokens": config.unit_tokens,
        "compression": config.compression,
    }


def _run(
    config: BuildConfig,
    teacher: Teacher,
    writer: StoreWriter,
    plan: Plan,
    on_progress: Callable[[Progress], None],
) -> None:
    """Run every unit that has no record yet, here or in workers."""
    recorded = writer.recorded()
    tally = Tally(plan, recorded, on_progress)
    missing = [unit.unit for unit in plan.units if unit.unit not in recorded]
    if not missing:
        return
    if config.workers > 1:
        job = Job(
            root=config.output,
            identity=writer.identity,
            selection=config.selection,
            batch_tokens=config.batch_tokens,
        )
        run_workers(job, teacher, writer, missing, config.workers, tally)
        return
    teacher.load()
    run_units(
        Scorer(teacher, config.selection, writer.targets, config.batch_tokens),
        teacher,
        writer,
        missing,
        on_batch=lambda windows: tally.add(len(windows), sum(len(one) for one in windows)),
        on_written=tally.write,
    )
