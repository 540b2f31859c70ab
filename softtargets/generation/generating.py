"""Generate a corpus: plan units of prompts, have the teacher answer those not done, write a file.

Units are pure functions of the plan, so that a crash and a resume give the same bytes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softtargets.capture.documents import raise_invalid
from softtargets.capture.teachers.taken_apart import TakenApartTeacher
from softtargets.errors import CorpusError
from softtargets.generation.generate_config import GenerateConfig
from softtargets.generation.generation_files import GenerationFiles
from softtargets.generation.hypotheses import Hypothesis, Hypothesizer, generation_settings
from softtargets.generation.nearest import nearest
from softtargets.generation.prompting import Prompt
from softtargets.texts import plural

MOST_WARNINGS = 10
"""Invalid records that are named; all are counted."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateProgress:
    """How far a generation is."""

    num_units: int
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
) -> GenerateResult:
    """Write what a teacher answers to prompts, or go on with it, or find it done.

    Args:
        config: what to generate.
        teacher: that is run.
        on_progress: called when answers were made.

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
            _answer(config, teacher, files, missing, num_units, on_progress)
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
    teacher: TakenApartTeacher,
    files: GenerationFiles,
    units: Sequence[int],
    all_units: int,
    on_progress: Callable[[GenerateProgress], None],
) -> None:
    """Have a teacher answer the prompts of units, and write their records."""
    teacher.load()
    hypothesizer = Hypothesizer(teacher, config)
    num_answers = num_tokens = 0
    for number, unit in enumerate(units):
        prompts = files.prompts(unit)
        found: dict[int, list[Hypothesis]] = {}
        ids = [np.array(one["ids"], np.int32) for one in prompts]
        for place, hypotheses in hypothesizer.run(ids):
            found[place] = hypotheses
            num_answers += 1
            num_tokens += sum(len(one.ids_T) for one in hypotheses)
            on_progress(
                GenerateProgress(
                    num_units=all_units - len(units) + number,
                    all_units=all_units,
                    num_answers=num_answers,
                    num_tokens=num_tokens,
                )
            )
        counts: Counter[str] = Counter()
        answers = [
            record
            for place, prompt in enumerate(prompts)
            for record in _records(config, prompt, found[place], counts)
        ]
        files.write_record(unit, {"answers": answers, "counts": counts})


def _records(
    config: GenerateConfig,
    prompt: dict[str, Any],
    hypotheses: list[Hypothesis],
    counts: Counter[str],
) -> Iterator[dict[str, Any]]:
    """Yield the records of the hypotheses of a prompt that are kept, and count the others."""
    if config.nearest_reference:
        ranked = nearest(hypotheses, prompt["reference"])
    else:
        ranked = [(one, None) for one in hypotheses]
    for one, bleu in ranked[: config.keep]:
        counts["unfinished"] += not one.is_finished
        if not one.text.strip():
            counts["empty"] += 1
            continue
        if not one.is_finished and config.unfinished == "drop":
            continue
        counts["answers"] += 1
        counts["tokens"] += len(one.ids_T)
        yield {
            **config.prompting.record(prompt["record"], one.text),
            "logprob": round(one.logprob, 4),
            "num_tokens": len(one.ids_T),
            "finished": one.is_finished,
        } | ({} if bleu is None else {"bleu": round(bleu, 2)})
