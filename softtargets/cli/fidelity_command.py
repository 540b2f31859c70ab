"""`softtargets fidelity`."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from softtargets.cli.options import DEVICE, DTYPE, teacher_config
from softtargets.cli.paths import INPUT, OUTPUT
from softtargets.cli.terminal import cell, echo
from softtargets.errors import InputError
from softtargets.fidelity import OWN_SECTIONS, SECTIONS
from softtargets.store import Store
from softtargets.task_registry import DEFAULT_TASK, find_task, task_of

if TYPE_CHECKING:
    from softtargets.capture import TeacherConfig
    from softtargets.capture.teacher import Teacher
    from softtargets.fidelity.own import OwnSelection
    from softtargets.window import TokenWindow

_COLUMNS = {
    "reconstruction": (
        "name", "temperature", "bytes_per_token", "num_entries", "tail_mass", "kl",
        "total_variation", "mean_variation", "entropy_error",
    ),
    "gradients": ("name", "num_positions", "degrees", "norm_ratio", "difference"),
    "bias": ("name", "num_redraws", "largest_z", "limit", "is_unbiased", "is_meant_to_fail"),
    "hidden-states": ("name", "compared_with", "gradient_difference"),
    "students": ("name", "group", "bytes_per_token", "gap_closed", "low", "high", "detectable"),
    "frozen-noise": ("name", "num_epochs", "cross_entropy", "kl", "kl_deviation"),
}  # fmt: skip


@click.command("fidelity")
@click.argument("store_or_teacher", metavar="STORE_OR_TEACHER")
@click.option("--teacher", metavar="DIR_OR_ID", help="Teacher of a STORE.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    type=INPUT,
    help="File with text for a TEACHER, as for build. Repeat for more.",
)
@click.option("--sequence-length", default=128, help="Tokens of a window.")
@DTYPE
@DEVICE
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(SECTIONS),
    help="Measure this section alone. Repeat for more.  [default: all; of a STORE's own selection, "
    "reconstruction and gradients]",
)
@click.option(
    "--compare-selections",
    is_flag=True,
    help="Compare other selections on the text of a STORE, instead of measuring its own.",
)
@click.option(
    "--quick/--large",
    default=True,
    show_default=False,
    help="Take minutes on two cores, or hours on a GPU.",
)
@click.option(
    "--output",
    required=True,
    type=OUTPUT,
    help="Directory for tables (Markdown), JSON and plots. It must be empty or new.",
)
def fidelity_command(
    store_or_teacher: str,
    only: tuple[str, ...],
    compare_selections: bool,
    quick: bool,
    output: Path,
    **options: Any,
) -> None:
    """Measure what selections lose.

    With a teacher and some text, the command compares ways to keep less than the full distribution.
    It measures what they lose of distributions, gradients and students.

    With a store and its teacher, it measures how well the store keeps distributions and gradients.
    --only asks for other sections, which always compare several selections.
    """
    from softtargets.fidelity.own import OwnSelection
    from softtargets.places.local_files import check_is_new, make_directory

    is_store = (Path(store_or_teacher) / "manifest.json").is_file()
    _check_form(is_store, options["teacher"], options["inputs"])
    check_is_new(output)
    name = options["teacher"] if is_store else store_or_teacher
    named = teacher_config(str(name), dtype=options["dtype"], device=options["device"])
    _check_task(store_or_teacher, named, is_store=is_store)
    teacher = find_task(DEFAULT_TASK).capture().teacher(named)
    own = None
    if is_store:
        store = Store.open(store_or_teacher)
        windows: list[TokenWindow] = list(store)
        own = None if compare_selections else OwnSelection.of(store)
    else:
        windows = _read_windows(teacher, options["inputs"], options["sequence_length"])
    make_directory(output)
    sections = only or (SECTIONS if own is None else OWN_SECTIONS)
    paths = _measure(teacher, windows, own, sections, quick, output)
    echo(f"Written: {', '.join(map(str, paths))}")


def _check_form(is_store: bool, teacher: str | None, inputs: tuple[Path, ...]) -> None:
    """Check that there is a store with its teacher, or a teacher with some text.

    Raises:
        InputError: there is neither.
    """
    if is_store == bool(inputs) or is_store != bool(teacher):
        raise InputError(
            "softtargets fidelity",
            expected="a store and --teacher, or a teacher and --input",
            found=f"{'a store' if is_store else 'no store'}, "
            f"{'with' if teacher else 'without'} --teacher, "
            f"{'with' if inputs else 'without'} --input",
            next_step="softtargets fidelity --help tells both forms.",
        )


def _check_task(where: str, teacher: TeacherConfig, *, is_store: bool) -> None:
    """Check that what is measured is of the task whose losses are measured here.

    Raises:
        InputError: it is of another.
    """
    from softtargets.capture.teacher_registry import task_of_teacher

    found = task_of(Store.open(where).targets) if is_store else task_of_teacher(teacher)
    if found.name != DEFAULT_TASK:
        raise InputError(
            where,
            expected=f"a store or a teacher of the task {DEFAULT_TASK}",
            found=f"one of {found.name}",
            next_step="softtargets verify --rescore compares stores of any task with the teacher.",
        )


def _measure(
    teacher: Teacher,
    windows: list[TokenWindow],
    own: OwnSelection | None,
    sections: tuple[str, ...],
    quick: bool,
    output: Path,
) -> list[Path]:
    """Measure section by section, and return the files with all that was found."""
    from softtargets.fidelity.measure import LARGE, QUICK, measure
    from softtargets.fidelity.plots import write_plots
    from softtargets.places.local_files import write_file

    started, console = time.monotonic(), Console(highlight=False, width=120)
    what = _what(own)
    echo(f"Measured: {what}")
    found: dict[str, Any] = {"teacher": teacher.name, "windows": len(windows), "quick": quick}
    found["selection"] = what
    results: dict[str, Any] = {}
    text, data = output / "fidelity.md", output / "fidelity.json"

    def say(step: str) -> None:
        echo(f"[{time.monotonic() - started:6.0f} s] {step}", err=True)

    plots: list[Path] = []
    size = QUICK if quick else LARGE
    for section, rows in measure(teacher, windows, size, sections, on_progress=say, own=own):
        results[section] = rows
        # After every section, as the next may take hours.
        write_file(data, json.dumps(found | results, indent=1).encode())
        write_file(text, f"{what}\n\n{markdown(results)}".encode())
        plots = write_plots(output, results)
        console.print(_table(section, rows))
    return [text, data, *plots]


def _what(own: OwnSelection | None) -> str:
    if own is None:
        return "Several selections, compared with each other."
    from softtargets.cli.selection_options import selection_text

    grid = ", ".join(f"{one:g}" for one in own.temperatures)
    return (
        f"The store's own selection: {selection_text(own.selection)}, temperatures {grid}, "
        f"--values {own.values}. The sections bias, students and frozen-noise compare several."
    )


def _read_windows(teacher: Any, inputs: tuple[Path, ...], length: int) -> list[TokenWindow]:
    from softtargets.capture import Corpus, Windowing

    windowing = Windowing(sequence_length=length)
    documents = Corpus(paths=inputs).documents()
    return list(windowing.windows(documents, teacher.tokenizer, Counter()))


def _cells(section: str, row: dict[str, Any]) -> list[str]:
    flat = row | row.get("measures", {})
    names = (*_COLUMNS[section], *row.get("measures", {}))
    return [_text(flat[name]) for name in names]


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _heads(section: str, row: dict[str, Any]) -> list[str]:
    names = (*_COLUMNS[section], *row.get("measures", {}))
    return [name.replace("_", " ").replace("bytes per token", "bytes/token") for name in names]


def _table(section: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=section.replace("-", " "))
    for number, head in enumerate(_heads(section, rows[0])):
        table.add_column(head, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(cell, _cells(section, row)))
    return table


def markdown(results: dict[str, Any]) -> str:
    """Return the tables of all sections in Markdown."""
    parts = []
    for section, rows in results.items():
        heads = _heads(section, rows[0])
        lines = [f"## {section.replace('-', ' ').capitalize()}", "", f"| {' | '.join(heads)} |"]
        lines.append("|---" + "|---:" * (len(heads) - 1) + "|")
        lines += [f"| {' | '.join(_cells(section, row))} |" for row in rows]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)
