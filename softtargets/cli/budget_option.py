"""`softtargets plan --budget-bytes-per-token`: the selections that fit, measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.table import Table

from softtargets.cli.selection_options import selection_text
from softtargets.errors import InputError
from softtargets.texts import plural

if TYPE_CHECKING:
    from softtargets.capture import BuildConfig
    from softtargets.capture.teacher import Teacher
    from softtargets.fidelity.budget import Fit
    from softtargets.window import TokenWindow

RANKED_BY = (
    "Ranked by the angle between two gradients of a student, on what the selection keeps and on "
    "the teacher's whole distribution, summed over the positions measured: at 0 degrees it learns "
    "the same. Selections with draws come first, since what they are off by is random and averages "
    "out in training; what a selection without draws leaves out is missing at every step."
)

_LOOKED_FOR = ("select", "top_k", "top_p", "min_k", "draws", "draw_design")


def check_budget_options(context: click.Context, config: BuildConfig) -> None:
    """Check that what is looked for is not given.

    Raises:
        InputError: it is.
    """
    given = [
        f"--{name.replace('_', '-')}"
        for name in _LOOKED_FOR
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if config.hidden_states or config.layers:
        given.append("--hidden-states")
    if config.rerun_layers:
        given.append("--rerun-layers")
    if given:
        raise InputError(
            "--budget-bytes-per-token",
            expected="no option that says what to keep: it finds that",
            found=", ".join(given),
            next_step="Omit one or the other.",
        )


def fit_budget(
    config: BuildConfig, teacher: Teacher, windows: list[TokenWindow], budget: float
) -> list[Fit]:
    """Return the selections within a budget, the recommended one first.

    Raises:
        InputError: none fits.
        TeacherError: the model cannot be run.
    """
    from softtargets.capture.keep.selection import check_temperatures
    from softtargets.fidelity.budget import Storage, fit_selections
    from softtargets.fidelity.sample import TeacherSample

    teacher.load()
    sample = TeacherSample.read(
        teacher,
        windows,
        config.batch_tokens,
        label_logits=config.label_logits,
        metadata=config.corpus.metadata_fields,
    )
    # No option says what to keep, so it is the default, which has draws.
    assert config.selection.draws is not None
    storage = Storage(
        temperatures=check_temperatures(config.temperatures),
        values=config.values,
        compression=config.compression,
        draws=config.selection.draws,
        pins=config.selection.pins,
    )
    fits = fit_selections(sample, budget, storage)
    if not fits:
        raise InputError(
            "--budget-bytes-per-token",
            expected="enough for one entry",
            found=f"{budget:g}",
            next_step="--no-label-logits saves 5 bytes a token, and a single --temperature 2 or "
            "more; else allow more.",
        )
    return fits


def budget_table(fits: list[Fit], budget: float) -> Table:
    """Return the table of what fits."""
    title = f"Selections within {budget:g} bytes a token, the recommended one first"
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("options")
    table.add_column("bytes/token", justify="right")
    positions = plural(fits[0].num_positions, "position")
    table.add_column(f"gradient off, {positions}", justify="right")
    for fit in fits:
        off = f"{fit.degrees:.2f} degrees"
        table.add_row(selection_text(fit.selection), f"{fit.bytes_per_token:.1f}", off)
    return table


def describe_fits(fits: list[Fit]) -> list[dict[str, Any]]:
    """Return what fits as JSON."""
    return [
        {
            "options": selection_text(fit.selection),
            "bytes_per_token": fit.bytes_per_token,
            "num_positions": fit.num_positions,
            "gradient_degrees": fit.degrees,
        }
        for fit in fits
    ]
