"""Generate a corpus: plan units of prompts, have the teacher answer those not done, write a file.

Units are pure functions of the plan, so that a crash and a resume give the same bytes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from softtargets.capture.documents import raise_invalid
from softtargets.capture.teachers.taken_apart import TakenApartTeacher
from softtargets.engines import Engine, Event, Failed, Scored, local_engine, run_all
from softtargets.engines.engine import MOST_ATTEMPTS
from softtargets.errors import CorpusError, StoreError
from softtargets.generation.answer_job import AnsweredUnit, AnswerJob
from softtargets.generation.generate_config import GenerateConfig
from softtargets.generation.generation_files import GenerationFiles
from softtargets.generation.hypotheses import generation_settings
from softtargets.generation.prompting import Prompt
from softtargets.texts import plural

MOST_WARNINGS = 10
"""Invalid records that are named; all are counted."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateProgress:
    """How far a generation is."""

    num_units: int
    """That are done."""
    all_units: int
    num_answers: int
    """That this call made."""
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateResult:
    """What was generated, by name: prompts, answers, tokens, and what was left out."""

    counts: Counter[str]
    was_complete: bool
    """Whether the file was there before this call."""


def generate(
    config: GenerateConfig,
    teacher: TakenApartTeacher,
    on_progress: Callable[[GenerateProgress], None] = lambda _: None,
    *,
    engine: Engine | None = None,
) -> GenerateResult:
    """Write what a teacher answers to prompts, or go on with it, or find it done.

    Args:
        config: what to generate.
        teacher: that is run.
        on_progress: called when answers were made.
        engine: runs the units; by default this process does, or as many as `config.workers`.

    Raises:
        InputError: an option is out of range, or means nothing to the family.
        CorpusError, TeacherError: the input or the model is wrong.
        StoreError, IdentityError, BusyError: the output is taken, or cannot be written.
    """
    identity = _identity(config, teacher)
    files = GenerationFiles(config.output, identity)
    counts = files.finished()
    if counts is not None:
        return GenerateResult(counts=Counter(counts), was_complete=True)
    with files.held():
        plan = files.read_plan() or _plan(config, teacher, files)
        num_units, planned = plan
        missing = [unit for unit in range(num_units) if files.read_record(unit) is None]
        if missing:
            engine = engine or local_engine(config.workers)
            job = AnswerJob(teacher=teacher, config=config, files=files)
            _answer(config, engine, job, missing, num_units, on_progress)
        return GenerateResult(counts=files.finish(num_units, planned), was_complete=False)


def _identity(config: GenerateConfig, teacher: TakenApartTeacher) -> dict[str, Any]:
    corpus = config.corpus.describe()
    if config.corpus.messages_field is not None:
        corpus = teacher.tokenizer.describe_chat() | corpus
    settings = generation_settings(teacher, config)
    return {
        "teacher": teacher.describe(),
        "tokenizer": teacher.tokenizer.describe(),
        "corpus": corpus,
        **config.describe(),
        "settings": settings,
    }


def _plan(
    config: GenerateConfig, teacher: TakenApartTeacher, files: GenerationFiles
) -> tuple[int, Counter[str]]:
    """Write the prompts of all units; return how many there are, and what was counted."""
    counts: Counter[str] = Counter()
    num_units = files.write_plan(_units(config, teacher, counts), counts)
    if not num_units:
        raise CorpusError(
            config.corpus.name,
            expected="at least one prompt",
            found=f"none, and {plural(counts['invalid_records'], 'record')} left out",
            next_step="Check the input and the names of its fields.",
        )
    return num_units, counts


def _units(
    config: GenerateConfig, teacher: TakenApartTeacher, counts: Counter[str]
) -> Iterator[list[dict[str, Any]]]:
    """Yield the prompts of each unit, as they are kept."""
    prompting, corpus = config.prompting, config.corpus

    def skip(error: CorpusError) -> None:
        counts["invalid_records"] += 1
        if counts["invalid_records"] <= MOST_WARNINGS:
            _log.warning("Left out: %s", error)

    on_invalid = skip if corpus.on_invalid == "skip" else raise_invalid
    most = prompting.most_read(teacher, config.max_new_tokens)
    records = prompting.records(corpus, has_reference=config.nearest_reference)
    unit: list[dict[str, Any]] = []
    for document in corpus.documents(on_invalid, records):
        try:
            prompt = _checked(document)
            ids_M = prompting.encode(teacher, prompt)
            if most is not None and len(ids_M) > most:
                raise _too_long(prompt, most, len(ids_M))
        except CorpusError as error:
            on_invalid(error)
            continue
        counts["prompts"] += 1
        kept = {"ids": ids_M.tolist(), "record": dict(prompt.record)}
        unit.append(kept | ({"reference": prompt.reference} if config.nearest_reference else {}))
        if len(unit) == config.unit_records:
            yield unit
            unit = []
    if unit:
        yield unit


def _checked(document: Any) -> Prompt:
    """Return a document as a prompt; a file that is one document is none."""
    if isinstance(document, Prompt):
        return document
    raise CorpusError(
        f"{document.source}, which is one text",
        expected="records, each with a prompt",
        found="a file without fields",
        next_step="Pass records in a .jsonl or .parquet file.",
    )


def _too_long(prompt: Prompt, most: int, found: int) -> CorpusError:
    return CorpusError(
        prompt.where,
        expected=f"a prompt of at most {plural(most, 'token')}, as the model has positions for",
        found=f"{found:,}",
        next_step="Shorten it, pass a smaller --max-new-tokens if the answer shares its positions, "
        "or leave such records out with --on-invalid skip.",
    )


def _answer(
    config: GenerateConfig,
    engine: Engine,
    job: AnswerJob,
    units: Sequence[int],
    all_units: int,
    on_progress: Callable[[GenerateProgress], None],
) -> None:
    """Have units answered; one whose process dies is given to another.

    Raises:
        StoreError: a unit ended too many processes; those that were done stay done.
    """
    tally = _Tally(all_units=all_units, num_done=all_units - len(units))

    def note(event: Event) -> None:
        tally.note(event)
        on_progress(tally.progress())

    failed = run_all(engine, job, units, note)
    if failed is not None:
        raise _failed(config, failed)


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What was answered by this call."""

    all_units: int
    num_done: int
    answered: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Of each unit that was begun: prompts that are answered, and tokens of their answers."""

    def note(self, event: Event) -> None:
        if isinstance(event, Failed):
            self.answered.pop(event.unit, None)
        elif isinstance(event, Scored):
            num_prompts, num_tokens = self.answered.get(event.unit, (0, 0))
            own = num_prompts + event.num_windows, num_tokens + event.num_tokens
            self.answered[event.unit] = own
        else:
            assert isinstance(event.entry, AnsweredUnit)
            self.answered[event.entry.unit] = event.entry.num_prompts, event.entry.num_tokens
            self.num_done += 1

    def progress(self) -> GenerateProgress:
        return GenerateProgress(
            num_units=self.num_done,
            all_units=self.all_units,
            num_answers=sum(prompts for prompts, _ in self.answered.values()),
            num_tokens=sum(tokens for _, tokens in self.answered.values()),
        )


def _failed(config: GenerateConfig, event: Failed) -> StoreError:
    return StoreError(
        str(config.output),
        expected="every unit done",
        found=f"unit {event.unit}, which failed {MOST_ATTEMPTS} times: {event.error}",
        next_step="What is done is kept. Fewer --workers or a smaller --batch-tokens need less "
        "memory; run the same command again.",
    )
