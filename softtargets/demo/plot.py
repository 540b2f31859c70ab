"""The demo's plot: what the two students have learned, step by step."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from softtargets.demo.learning import Trained
from softtargets.places.local_files import write_file

_COLORS = ("#b4532a", "#2a6fb4")


def write_plot(path: Path, students: Sequence[Trained]) -> None:
    """Write two panels against the training step as PNG: cross-entropy and KL to the teacher."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, title, field in zip(
        panels,
        ("held-out cross-entropy", "KL to the teacher, held-out"),
        ("cross_entropy", "kl_to_teacher"),
        strict=True,
    ):
        for student, color in zip(students, _COLORS, strict=True):
            axes.plot(
                [point.step for point in student.points],
                [getattr(point, field) for point in student.points],
                marker="o",
                color=color,
                label=student.name,
            )
        axes.set(title=title, xlabel="step", ylabel="nats a token")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    panels[0].legend(frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    write_file(path, content.getvalue())
