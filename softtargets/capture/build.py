"""Build a store: plan the units, run those that are not done, commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from softtargets.capture.corpus import Corpus
from softtargets.capture.plan import Plan, make_plan, read_plan, read_unit
from softtargets.capture.score import ScoredBatch, Scorer
from softtargets.capture.select import TopK, check_temperatures
from softtargets.capture.teacher import Teacher
from softtargets.capture.windows import Windowing
from softtargets.errors import InputError
from softtargets.kinds import HeadSchema, TargetSchema
from softtargets.store import Store
from softtargets.store.manifest import ShardEntry
from softtargets.store.schema import Compression
from softtargets.store.versions import FORMAT_VERSION
from softtargets.store.writer import StoreWriter
from softtargets.window import TokenWindow


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """What to build. All but `output` and `batch_tokens` decide the store's content."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a build is; windows and tokens of earlier runs are included."""

    num_windows: int
    num_tokens: int
    all_windows: int
    all_tokens: int
    tokens_before: int
    """Tokens that were done before this run."""
    bytes_per_token: float | None
    """Size of the shards so far; None before the first."""


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
        _run_units(config, teacher, writer, plan, on_progress)
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


class _Tally:
    """What is done of a plan, for whoever shows progress."""

    def __init__(
        self, plan: Plan, entries: dict[int, ShardEntry], show: Callable[[Progress], None]
    ) -> None:
        done = [unit for unit in plan.units if unit.unit in entries]
        self.entries = entries
        self._plan = plan
        self._show = show
        self._num_windows = sum(unit.num_windows for unit in done)
        self._num_tokens = self._tokens_before = sum(unit.num_tokens for unit in done)

    def add(self, windows: Sequence[TokenWindow]) -> None:
        """Count windows that were scored."""
        self._num_windows += len(windows)
        self._num_tokens += sum(len(window) for window in windows)
        self.report()

    def report(self) -> None:
        """Show how far the build is."""
        num_bytes = sum(entry.num_bytes for entry in self.entries.values())
        in_shards = sum(unit.num_tokens for unit in self._plan.units if unit.unit in self.entries)
        self._show(
            Progress(
                num_windows=self._num_windows,
                num_tokens=self._num_tokens,
                all_windows=self._plan.num_windows,
                all_tokens=self._plan.num_tokens,
                tokens_before=self._tokens_before,
                bytes_per_token=num_bytes / in_shards if in_shards else None,
            )
        )


def _run_units(
    config: BuildConfig,
    teacher: Teacher,
    writer: StoreWriter,
    plan: Plan,
    on_progress: Callable[[Progress], None],
) -> None:
    """Score and write every unit that has no record yet.

    A thread packs and writes a unit while the teacher reads the next; what it raises is raised
    here as soon as the batch that is being read is done.
    """
    tally = _Tally(plan, writer.recorded(), on_progress)
    tally.report()
    missing = [unit.unit for unit in plan.units if unit.unit not in tally.entries]
    if not missing:
        return
    teacher.load()
    scorer = Scorer(teacher, config.selection, writer.targets, config.batch_tokens)
    writing: Future[ShardEntry] | None = None
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="softtargets-write") as thread:
        for unit in missing:
            batches = []
            for batch in scorer.score(read_unit(writer.work, unit)):
                batches.append(batch)
                tally.add(batch.windows)
                if writing is not None and writing.done():
                    _finish(writing, tally)
                    writing = None
            if writing is not None:
                _finish(writing, tally)
            run = {"device": teacher.device.type, "batch_tokens": scorer.batch_tokens}
            writing = thread.submit(_write_unit, writer, unit, batches, run)
        assert writing is not None
        _finish(writing, tally)


def _finish(writing: Future[ShardEntry], tally: _Tally) -> None:
    """Wait for a unit to be written, raising what its thread raised."""
    entry = writing.result()
    tally.entries[entry.unit] = entry
    tally.report()


def _write_unit(
    writer: StoreWriter, unit: int, batches: Sequence[ScoredBatch], run: Mapping[str, Any]
) -> ShardEntry:
    """Pack the windows of a unit and write its shard, in the order of the corpus."""
    windows = dict(pair for batch in batches for pair in batch.pack(writer.targets))
    return writer.write_unit(unit, [windows[place] for place in range(len(windows))], run)
