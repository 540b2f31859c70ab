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

from softtargets.cli.paths import INPUT, OUTPUT
from softtargets.cli.terminal import cell, echo
from softtargets.errors import InputError
from softtargets.fidelity import OWN_SECTIONS, SECTIONS
from softtargets.store import Store

if TYPE_CHECKING:
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
@click.option("--teacher", metavar="DIR_OR_ID", help="The teacher of a STORE.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    type=INPUT,
    help="Text for a TEACHER: files, as for build; repeat for more.",
)
@click.option("--sequence-length", default=128, show_default=True, help="Tokens of a window.")
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    default="bfloat16",
    show_default=True,
    help="Number format the teacher runs in.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N, mps.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(SECTIONS),
    help="Measure this alone; repeat for more.  [default: all; of a STORE's own selection, "
    "reconstruction and gradients]",
)
@click.option(
    "--compare-selections",
    is_flag=True,
    help="Of a STORE: compare other selections on its text, instead of measuring its own.",
)
@click.option("--quick/--large", default=True, help="Minutes on two cores, or hours on a GPU.")
@click.option(
    "--output",
    required=True,
    type=OUTPUT,
    help="Empty or new directory for tables (Markdown), JSON and plots.",
)
def fidelity_command(
    store_or_teacher: str,
    only: tuple[str, ...],
    compare_selections: bool,
    quick: bool,
    output: Path,
    **options: Any,
) -> None:
    """Measure what every selection loses: of distributions, of gradients, and of students.

    Of a teacher with some text it compares ways to keep less than the full distribution. Of a store
    with its teacher it measures what the store keeps: distributions and gradients, unless --only
    asks for the other sections, which always compare several selections.
    """
    from transformers.utils import logging as transformers_logging

    from softtargets.capture import TeacherConfig, TransformersTeacher
    from softtargets.fidelity.measure import LARGE, QUICK, measure
    from softtargets.fidelity.own import OwnSelection
    from softtargets.fidelity.plots import write_plots
    from softtargets.places.local_files import check_is_new, make_directory, write_file

    transformers_logging.disable_progress_bar()
    console = Console(highlight=False, width=120)
    is_store = (Path(store_or_teacher) / "manifest.json").is_file()
    name = options["teacher"] if is_store else store_or_teacher
    if (
        is_store == bool(options["inputs"])
        or (name is None)
        or (options["teacher"] and not is_store)
    ):
        raise InputError(
            "softtargets fidelity",
            expected="a store and --teacher, or a teacher and --input",
            found=f"{'a store' if is_store else 'no store'}, "
            f"{'with' if options['teacher'] else 'without'} --teacher, "
            f"{'with' if options['inputs'] else 'without'} --input",
            next_step="softtargets fidelity --help tells both forms.",
        )
    check_is_new(output)
    teacher = TransformersTeacher(
        TeacherConfig(name=str(name), dtype=options["dtype"], device=options["device"])
    )
    windows = (
        list(Store.open(store_or_teacher))
        if is_store
        else _read_windows(teacher, options["inputs"], options["sequence_length"])
    )
    own = None
    if is_store and not compare_selections:
        own = OwnSelection.of(Store.open(store_or_teacher))
    started = time.monotonic()
    make_directory(output)
    about = {"teacher": teacher.name, "windows": len(windows), "quick": quick}
    about["selection"] = what = _what(own)
    echo(f"Measured: {what}")
    results: dict[str, Any] = {}
    for section, rows in measure(
        teacher,
        windows,
        QUICK if quick else LARGE,
        only or (SECTIONS if own is None else OWN_SECTIONS),
        on_progress=lambda text: echo(f"[{time.monotonic() - started:6.0f} s] {text}", err=True),
        own=own,
    ):
        results[section] = rows
        # After every section, as the next may take hours.
        write_file(output / "fidelity.json", json.dumps(about | results, indent=1).encode())
        write_file(output / "fidelity.md", f"{what}\n\n{markdown(results)}".encode())
        plots = write_plots(output, results)
        console.print(_table(section, rows))
    paths = [output / "fidelity.md", output / "fidelity.json", *plots]
    echo(f"Written: {', '.join(map(str, paths))}")


def _what(own: OwnSelection | None) -> str:
    if own is None:
        return "Several selections, compared with each other."
    from softtargets.cli.selection import selection_text

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
