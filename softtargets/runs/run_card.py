"""The card of a student: a README.md that the Hugging Face Hub shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from softtargets.places.local_files import write_file
from softtargets.runs.prepared import PreparedRun
from softtargets.runs.run_directory import (
    AFTER,
    BASELINE,
    BEFORE,
    CARD_NAME,
    PLOT_NAME,
    STATE_NAME,
    RunDirectory,
)
from softtargets.runs.run_words import described
from softtargets.train.figures import FIGURES, SHARES

ROWS = {BEFORE: "before training", AFTER: "after training", BASELINE: "on labels alone"}
"""What people call the rows of the table."""


def figure_text(name: str, value: float) -> str:
    """Return a figure for people."""
    # An estimate may be below zero by less than is shown.
    return f"{100 * value:.1f}%" if name in SHARES else f"{round(value, 4) + 0.0:.4f}"


def figure_table(results: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of the results, as texts."""
    rows = [name for name in ROWS if results.get(name)]
    names = list(dict.fromkeys(name for row in rows for name in results[row]))
    headings = ["", *(FIGURES.get(name, name) for name in names)]
    texts = [
        [figure_text(name, results[row][name]) if name in results[row] else "-" for name in names]
        for row in rows
    ]
    return headings, [[ROWS[row], *own] for row, own in zip(rows, texts, strict=True)]


def loading_line(run: PreparedRun) -> str:
    """Return the Python that loads the student."""
    auto = run.maker.auto.__name__
    return f'{auto}.from_pretrained("{run.settings.output}")'


def write_card(run: PreparedRun, directory: RunDirectory) -> None:
    """Write the card.

    Raises:
        StoreError: the system refused.
    """
    write_file(directory.root / CARD_NAME, "\n".join(_lines(run, directory)).encode())


def _lines(run: PreparedRun, directory: RunDirectory) -> Iterator[str]:
    yield from ("---", "library_name: transformers", "tags:", "- distillation", "- softtargets")
    yield from ("---", "", f"# {directory.root.name}", "")
    yield (
        f"A student of {run.store.manifest.teacher}, trained by softtargets on the soft targets of "
        f"a store. Everything that was resolved is in `{STATE_NAME}`."
    )
    yield from ("", "| | |", "|---|---|")
    for name, value in described(run).items():
        yield f"| {name} | {value} |"
    headings, rows = figure_table(directory.results)
    if rows:
        yield from ("", "## Results", "", "On documents that were held out:", "")
        yield f"| {' | '.join(headings)} |"
        yield f"|---|{'---:|' * (len(headings) - 1)}"
        yield from (f"| {' | '.join(row)} |" for row in rows)
    if (directory.root / PLOT_NAME).is_file():
        yield from ("", f"![Loss and figures by step]({PLOT_NAME})")
    yield from ("", "## To load it", "", "```python")
    auto = run.maker.auto.__name__
    yield f"from transformers import {auto}, AutoTokenizer"
    yield ""
    yield f'student = {auto}.from_pretrained("{directory.root.name}")'
    yield f'tokenizer = AutoTokenizer.from_pretrained("{directory.root.name}")'
    yield from ("```", "")
