"""`softtargets generate`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from softtargets.cli.build_command import INTERRUPTED
from softtargets.cli.engine_options import ENGINE_OPTIONS, parse_engine
from softtargets.cli.options import (
    CORPUS_OPTIONS,
    TEACHER_OPTIONS,
    WORKERS,
    parse_corpus,
    parse_teacher,
    with_options,
)
from softtargets.cli.paths import LocalPath
from softtargets.cli.progress_display import lines
from softtargets.cli.terminal import echo
from softtargets.errors import InputError
from softtargets.texts import plural

if TYPE_CHECKING:
    from collections import Counter
    from pathlib import Path

    from softtargets.capture.teacher import Teacher
    from softtargets.engines import Engine
    from softtargets.generation import GenerateConfig, GenerateProgress, GenerateResult

_OWN = (
    "num_beams", "keep", "max_new_tokens", "length_penalty", "nearest_reference", "unfinished",
    "batch_tokens", "unit_records", "workers",
)  # fmt: skip
"""Options that GenerateConfig has by the same names."""


@click.command("generate")
@click.option(
    "--output",
    required=True,
    metavar="FILE.jsonl",
    type=LocalPath("a local file", dir_okay=False),
    help="File of records to write, which build reads. An interrupted run continues.",
)
@click.option("--num-beams", default=5, help="Hypotheses that beam search follows; 1 is greedy.")
@click.option("--keep", default=1, help="How many hypotheses are written for each prompt.")
@click.option("--max-new-tokens", default=256, help="Most tokens of an answer.")
@click.option(
    "--length-penalty",
    default=1.0,
    help="Hypotheses count by log-probability over length to this power.",
)
@click.option(
    "--nearest-reference",
    is_flag=True,
    help="seq2seq: keep the hypotheses nearest to the field of --target-field, by sentence BLEU.",
)
@click.option(
    "--unfinished",
    type=click.Choice(["keep", "drop"]),
    default="keep",
    help="What to do with answers that reach --max-new-tokens; they are counted.",
)
@click.option(
    "--batch-tokens", default=4096, help="Most tokens of a batch, those of every beam included."
)
@click.option("--unit-records", default=512, help="Records of a unit, which a crash can cost.")
@WORKERS
@with_options(ENGINE_OPTIONS, TEACHER_OPTIONS, CORPUS_OPTIONS)
def generate_command(
    output: Path,
    engine_name: str,
    ray_address: str | None,
    gpus_per_worker: float | None,
    **options: Any,
) -> None:
    """Have a teacher write a corpus: translations of sources, or answers to prompts.

    Each record has the text, the teacher's log-probability of it in nats, and whether it came to an
    end. Give build the same options for its fields to store what the teacher says of its own words.
    """
    from softtargets.generation import GenerateConfig

    engine = parse_engine(engine_name, ray_address, gpus_per_worker, workers=options["workers"])
    task, teacher = parse_teacher(options)
    corpus = parse_corpus(options)
    config = GenerateConfig(
        corpus=corpus,
        output=output,
        prompting=task.prompting(corpus),
        **{name: options[name] for name in _OWN},
    )
    result = _run(config, teacher, engine)
    if result.was_complete:
        echo(f"{output} is complete already: nothing to do.")
    else:
        echo(f"{output}: {_summary(result.counts)}.")


def _run(config: GenerateConfig, teacher: Teacher, engine: Engine | None) -> GenerateResult:
    """Generate, with a line every few seconds."""
    from softtargets.capture.teachers.taken_apart import TakenApartTeacher
    from softtargets.generation import generate

    if not isinstance(teacher, TakenApartTeacher):
        raise InputError(
            "--teacher",
            expected="a model of transformers, which writes in this process",
            found=teacher.name,
            next_step="Pass the directory or the id of the model.",
        )
    echo(f"Writing {config.output}: {teacher.name} on {teacher.device} reads {config.corpus.name}.")
    started, last = time.monotonic(), None

    def note(progress: GenerateProgress) -> None:
        nonlocal last
        last = progress
        check()

    def text() -> str:
        seconds = time.monotonic() - started
        return _progress_text(last, seconds)

    try:
        with lines(text) as check:
            return generate(config, teacher, note, engine=engine)
    except KeyboardInterrupt:
        echo("Interrupted. The units done so far are kept: run the same command to continue.")
        raise click.exceptions.Exit(INTERRUPTED) from None


def _progress_text(progress: GenerateProgress | None, seconds: float) -> str:
    if progress is None:
        return f"planning, {seconds:.0f} s"
    done = f"{progress.num_units:,} of {plural(progress.all_units, 'unit')}"
    answers = plural(progress.num_answers, "prompt")
    return f"{done}, {answers}, {progress.num_tokens / seconds:,.0f} tokens/s"


def _summary(counts: Counter[str]) -> str:
    """Return what was written and what was left out, for people."""
    parts = [
        plural(counts["prompts"], "prompt"),
        plural(counts["answers"], "answer"),
        plural(counts["tokens"], "token"),
    ]
    for name, words in (
        ("unfinished", "{} reached --max-new-tokens"),
        ("empty", "{} empty, left out"),
        ("invalid_records", "{} wrong, left out"),
    ):
        if counts[name]:
            parts.append(words.format(f"{counts[name]:,}"))
    return ", ".join(parts)
