"""The plot of a run: its loss, and how near it came to the teacher, step by step."""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from softtargets.places.local_files import write_file
from softtargets.runs.run_directory import AFTER, BASELINE, BEFORE, PLOT_NAME, RunDirectory
from softtargets.train.figures import FIGURES, NATS, SHARES

_COLORS = ("#2a6fb4", "#b4532a")
_LOSS = "loss"


def write_plot(directory: RunDirectory, curves: Mapping[str, str]) -> bool:
    """Write the plot as PNG; return False where matplotlib is not installed.

    Args:
        directory: of the run, with its logs and results.
        curves: what is drawn, by the row of the results in which it ends, and its name.
    """
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    measured = [name for name in directory.results.get(AFTER, {}) if name not in SHARES]
    titles = {name: f"{FIGURES.get(name, name)}, held-out" for name in measured}
    titles = {_LOSS: "training loss", **titles}
    inches = 4 * len(titles)
    figure = Figure(figsize=(inches, 3.6))
    # As wide as the numbers need: to have it measured takes a second.
    left, right = 0.72 / inches, 1 - 0.12 / inches
    figure.subplots_adjust(left=left, right=right, top=0.9, bottom=0.14, wspace=0.24)
    panels = figure.subplots(1, len(titles), squeeze=False)[0]
    for axes, (field, title) in zip(panels, titles.items(), strict=True):
        for (row, name), color in zip(curves.items(), _COLORS, strict=True):
            points = _points(directory, field, row)
            if points:
                steps, values = zip(*points, strict=True)
                marker = None if field == _LOSS else "o"
                axes.plot(steps, values, marker=marker, color=color, label=name)
        axes.set(title=title, xlabel="step", ylabel="nats per target" if field in NATS else "")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    write_file(directory.root / PLOT_NAME, content.getvalue())
    return True


def _points(directory: RunDirectory, field: str, row: str) -> list[tuple[int, float]]:
    """Return (step, value) of a number that was logged, and what it was at both ends."""
    history: list[dict[str, Any]] = directory.read_log(BASELINE if row == BASELINE else "")
    logged = field if field == _LOSS else f"eval_{field}"
    points = {one["step"]: one[logged] for one in history if logged in one}
    if field != _LOSS and history:
        for step, end in ((0, BEFORE), (history[-1]["step"], row)):
            if field in directory.results.get(end, {}):
                points[step] = directory.results[end][field]
    return sorted(points.items())
