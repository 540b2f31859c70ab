"""Plots of what was measured."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from softtargets.places.local_files import write_file

_COLORS = ("#2a6fb4", "#b4532a", "#3d8a4e", "#7a4fa3", "#8a7a2a")


def write_plots(directory: Path, results: Mapping[str, Any]) -> list[Path]:
    """Write a PNG for each section that has one; return their paths."""
    drawn = {
        "reconstruction": _draw_reconstruction,
        "gradients": _draw_gradients,
        "students": _draw_students,
    }
    paths = []
    for section, draw in drawn.items():
        if section in results:
            figure = Figure(figsize=(8.4, 4.4), layout="constrained")
            axes = figure.subplots()
            draw(axes, results[section])
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.3)
            axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
            for axis in (axes.xaxis, axes.yaxis):
                if axis.get_scale() == "log":
                    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                    axis.set_major_formatter(FormatStrFormatter("%g"))
                    axis.set_minor_formatter(NullFormatter())
            content = io.BytesIO()
            figure.savefig(content, format="png", dpi=110)
            path = directory / f"{section}.png"
            write_file(path, content.getvalue())
            paths.append(path)
    return paths


def _family(name: str) -> str:
    """Return what kind of target a name is about, without its numbers."""
    words = [word for word in name.replace(",", " ,").split() if not _is_number(word)]
    return " ".join(words).replace(" ,", ",")


def _is_number(word: str) -> bool:
    return word.replace(".", "").isdigit()


def _series(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    series: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        series.setdefault(_family(row["name"]), []).append(row)
    return series


def _draw_reconstruction(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    at_one = [row for row in rows if row["temperature"] == 1]
    for number, (family, own) in enumerate(_series(at_one).items()):
        own = sorted(own, key=lambda row: row["bytes_per_token"])
        _draw_line(axes, number, family, own, "bytes_per_token", "mean_variation")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="bytes/token",
        ylabel="total variation of the mean distributions",
        title="What does not average out, T = 1",
    )


def _draw_line(
    axes: Axes, number: int, label: str, rows: Sequence[Mapping[str, Any]], x: str, y: str
) -> None:
    axes.plot(
        [row[x] for row in rows],
        [row[y] for row in rows],
        marker="o",
        label=label,
        color=_COLORS[number % len(_COLORS)],
        linestyle="-" if number < len(_COLORS) else "--",
    )


def _draw_gradients(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(row["name"] for row in rows))
    for number, name in enumerate(names):
        own = [row for row in rows if row["name"] == name]
        _draw_line(axes, number, name, own, "num_positions", "degrees")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="positions",
        ylabel="degrees",
        title="Angle between the sparse and the full gradient",
    )


def _draw_students(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    stored = [row for row in rows if row["bytes_per_token"] is not None]
    for number, (family, own) in enumerate(_series(stored).items()):
        own = sorted(own, key=lambda row: row["bytes_per_token"])
        axes.errorbar(
            [row["bytes_per_token"] for row in own],
            [100 * row["gap_closed"] for row in own],
            yerr=[
                [100 * (row["gap_closed"] - row["low"]) for row in own],
                [100 * (row["high"] - row["gap_closed"]) for row in own],
            ],
            marker="o",
            capsize=3,
            label=family,
            color=_COLORS[number % len(_COLORS)],
        )
    axes.axhline(100, color="#888888", linewidth=1)
    axes.set(
        xscale="log",
        xlabel="bytes/token",
        ylabel="% of the gap in KL to the teacher",
        title="Gap closed between plain cross-entropy and full distillation",
    )
