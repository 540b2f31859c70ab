"""The tables and the plot of a comparison: a teacher, its students, and their twins.

A figure has one value for each seed, or one for all seeds. An example that is run with
`--page PAGE` puts its tables into that page, between `<!-- NAME -->` and `<!-- end of NAME -->`.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

from softtargets.texts import plural

TEACHER, ALONE, DISTILLED = "teacher", "student without distillation", "student with distillation"

Values = Mapping[str, Sequence[float]]
"""Of one model: the figures by name, and of each the value of every seed."""
Rows = dict[str, dict[str, list[float]]]
"""Of several models by name."""


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _nats(value: float) -> str:
    # An estimate may be below zero by less than is shown.
    return f"{round(value, 3) + 0.0:.3f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _times(value: float) -> str:
    return f"{value:.1f}x"


_FORMATS: dict[str, Callable[[float], str]] = {
    "accuracy": _percent,
    "macro-F1": _percent,
    "top-1 agreement": _percent,
    "masked-LM loss": _nats,
    "KL to the teacher": _nats,
    "BLEU, greedy": _points,
    "BLEU, beams": _points,
    "chrF, greedy": _points,
    "chrF, beams": _points,
    "KL, corpus": _nats,
    "cross-entropy, corpus": _nats,
    "KL, own answers": _nats,
    "cross-entropy, own answers": _nats,
    "parameters": _count,
    "bytes on disk": _count,
    "texts/s": _count,
    "tokens/s": _count,
}
"""How each figure is written."""
_SIZES = ("parameters", "bytes on disk", "tokens/s")
_COLORS = ("#b4532a", "#2a6fb4")
"""Of the first student, and of all others."""
_TWINS = {ALONE: "without", DISTILLED: "with"}


def example_parser(about: str | None) -> ArgumentParser:
    """Return the options that all examples of mails have.

    Args:
        about: the docstring of the example, whose first line is shown.
    """
    parser = ArgumentParser(description=about.splitlines()[0] if about else None)
    for name in ("encoder", "mails", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="pairs of students")
    parser.add_argument("--page", type=Path, help="page to put the tables and the plots into")
    return parser


def add_values(rows: Rows, row: str, *groups: Mapping[str, float]) -> None:
    """Note what a model is like; the next call for the same row has the next seed's values."""
    values = rows.setdefault(row, {})
    for group in groups:
        for name, value in group.items():
            values.setdefault(name, []).append(value)


def seeds_text(number: int) -> str:
    """Return a sentence on what stands in the tables."""
    seeds = plural(number, "seed")
    return f"Figures are means over {seeds}, with the lowest and the highest in brackets."


def quality_names(rows: Rows) -> list[str]:
    """Return the figures that are neither sizes nor speeds."""
    return [name for name in rows[ALONE] if name not in (*_SIZES, "texts/s")]


def figure_table(rows: Rows) -> str:
    """Return a table of all figures: means over seeds, and from where to where these reach."""
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    return markdown(
        ("", *names),
        (
            (row, *(_spread(values.get(name, ()), _FORMATS[name]) for name in names))
            for row, values in rows.items()
        ),
    )


def ratio_table(
    rows: Rows, quality: Sequence[str], students: Iterable[str] = (ALONE, DISTILLED)
) -> str:
    """Return a table of students as shares of the teacher: size, speed, and quality by seed."""
    teacher = rows[TEACHER]
    texts = dict.fromkeys((*_SIZES, *quality), _percent) | {"tokens/s": _times}
    return markdown(
        ("share of the teacher's", *texts),
        (
            (
                row,
                *(
                    _spread(_ratios(rows[row][name], teacher[name]), text)
                    for name, text in texts.items()
                ),
            )
            for row in students
        ),
    )


def gain_table(rows: Rows) -> str:
    """Return a table of what distillation changed: the differences between twins of a seed."""
    return markdown(
        ("with distillation, less without", "mean", "lowest", "highest", "pairs"),
        (
            (f"{name}, {'points' if _is_share(name) else 'nats'}", *_changes(rows, name, *_TWINS))
            for name in quality_names(rows)
        ),
    )


def difference_table(rows: Rows, name: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Return a table of how one figure differs between students, each less the other."""
    unit = "points" if _is_share(name) else "nats"
    return markdown(
        (f"{name}, {unit}", "mean", "lowest", "highest", "pairs"),
        ((f"{one}, less {other}", *_changes(rows, name, other, one)) for one, other in pairs),
    )


def _changes(rows: Rows, name: str, before: str, after: str) -> tuple[str, ...]:
    pairs = zip(rows[after][name], rows[before][name], strict=True)
    changes = [one - other for one, other in pairs]
    factor, digits = (100, 1) if _is_share(name) else (1, 3)
    texts = [
        f"{factor * value:+.{digits}f}" for value in (_mean(changes), min(changes), max(changes))
    ]
    return *texts, f"{len(changes)}"


def _is_share(name: str) -> bool:
    return _FORMATS[name] in (_percent, _points)


def _ratios(values: Sequence[float], teacher: Sequence[float]) -> list[float]:
    """Return values as shares of the teacher's, which has one for each seed or one for all.

    There are none of a teacher that is never right.
    """
    others = list(teacher) * (len(values) if len(teacher) == 1 else 1)
    return [value / other for value, other in zip(values, others, strict=True) if other]


def _spread(values: Sequence[float], text: Callable[[float], str]) -> str:
    """Return the mean of values and their range, as far as they differ when they are written."""
    if not values:
        return "-"
    mean, low, high = text(_mean(values)), text(min(values)), text(max(values))
    return mean if low == high else f"{mean} ({low} to {high})"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts."""
    lines = [f"| {' | '.join(headings)} |", f"|---|{'---:|' * (len(headings) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def write_plot(path: Path, rows: Rows, title: str, students: Mapping[str, str]) -> None:
    """Write an SVG with a panel for each figure of quality: a line joins students of a seed.

    Args:
        path: of the file.
        rows: the figures.
        title: what stands above the panels.
        students: what the rows are called in the plot, from left to right.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = quality_names(rows)
    places = range(len(students))
    size = (max(3.2, 0.8 * len(students)) * len(names), 3.2)
    figure = Figure(figsize=size, layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        factor = 100 if _is_share(name) else 1
        found = [[factor * value for value in rows[row][name]] for row in students]
        for of_seed in zip(*found, strict=True):
            axes.plot(places, of_seed, color="#bbb", linewidth=1, zorder=1)
        for place, values in enumerate(found):
            color = _COLORS[min(place, 1)]
            axes.scatter([place] * len(values), values, color=color, zorder=2)
        if name in rows[TEACHER]:
            mean = factor * _mean(rows[TEACHER][name])
            axes.axhline(mean, color="#444", linestyle="--", linewidth=1)
            axes.text(
                places[-1] / 2, mean, "teacher", ha="center", va="bottom", fontsize=8, color="#444"
            )
        axes.set_title(f"{name}, {'%' if factor == 100 else 'nats'}", fontsize=10)
        axes.set_xticks(places, list(students.values()))
        axes.set_xlim(-0.4, places[-1] + 0.4)
        axes.margins(y=0.2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    figure.suptitle(title, fontsize=11)
    # The same figures make the same file.
    with mpl.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def show_part(
    page: Path | None,
    name: str,
    text: str,
    rows: Rows,
    title: str,
    students: Mapping[str, str] = _TWINS,
) -> None:
    """Print the tables of an example.

    With a page, they replace what stands there between the marks of a name, and the plot beside it.
    """
    print(f"{text}\n")
    if page is None:
        return
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = page.read_text().partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{page}: expected the lines {start} and {end}; add them to the page.")
    plot = page.parent / f"{name}.svg"
    write_plot(plot, rows, title, students)
    who = "each student and its twin" if students == _TWINS else "each student"
    picture = f"![{title}: {who}, by seed]({plot.name})"
    page.write_text(f"{before}{start}\n\n{text}\n\n{picture}\n\n{end}{after}")


def results_of(
    options: Namespace, compare: Callable[[Namespace], dict[str, Any]]
) -> dict[str, Any]:
    """Return what a comparison gives; results of the same options that are there are taken."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    options.output.mkdir(parents=True, exist_ok=True)
    places = ("output", "page")
    decided = {name: str(one) for name, one in vars(options).items() if name not in places}
    path = options.output / "results.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        if found["options"] == decided:
            return dict(found["results"])
    results = compare(options)
    path.write_text(json.dumps({"options": decided, "results": results}, indent=1) + "\n")
    return results
