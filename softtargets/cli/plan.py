"""`softtargets plan`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from softtargets.cli.budget import (
    budget_table,
    check_budget_options,
    describe_fits,
    fit_budget,
)
from softtargets.cli.options import build_options, parse_build
from softtargets.cli.paths import OUTPUT
from softtargets.cli.selection import selection_text
from softtargets.cli.tables import key_value_table, left_out_text
from softtargets.cli.terminal import echo_json
from softtargets.report.texts import bytes_text

if TYPE_CHECKING:
    from softtargets.capture import Estimate


@click.command("plan")
@click.option(
    "--output",
    metavar="STORE",
    type=OUTPUT,
    help="As for build, so that its options can be pasted; nothing is written there.",
)
@build_options
@click.option("--sample", default=16, show_default=True, help="Windows that are scored to measure.")
@click.option(
    "--budget-bytes-per-token",
    type=click.FloatRange(min=0, min_open=True),
    help="Find what to keep within so many bytes: fits the selections to the sample.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.pass_context
def plan_command(
    context: click.Context,
    /,
    output: Path | None,
    sample: int,
    budget_bytes_per_token: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say what a build would take, before it is begun: size, time, and when it pays.

    Takes the options of build. The whole corpus is read and tokenised, and a random sample of its
    windows is scored on this machine; nothing is written.
    """
    from softtargets.capture import estimate_from, sample_corpus

    config, teacher = parse_build(options, output or Path("planned-store"))
    budget, fits, title = budget_bytes_per_token, [], "A build with these options"
    if budget is not None:
        check_budget_options(context, config)
    corpus = sample_corpus(config, teacher, sample)
    if budget is not None:
        fits = fit_budget(config, teacher, corpus.windows, budget)
        config = dataclasses.replace(config, selection=fits[0].selection)
        title = f"A build with {selection_text(config.selection)}"
    found = estimate_from(config, teacher, corpus)
    if as_json:
        fitted = {} if budget is None else {"selections": describe_fits(fits)}
        echo_json(describe(found) | fitted)
        return
    console = Console(highlight=False)
    if budget is not None:
        console.print(budget_table(fits, budget), "")
    console.print(key_value_table(title, rows(found)))


def describe(found: Estimate) -> dict[str, Any]:
    """Return an estimate as JSON."""
    derived = ("num_bytes", "hours", "online_hours", "break_even_epochs")
    return dataclasses.asdict(found) | {name: getattr(found, name) for name in derived}


def rows(found: Estimate) -> dict[str, str]:
    """Return the rows of the table."""
    corpus = found.corpus
    return {
        "documents": f"{corpus['documents']:,}",
        "windows": f"{corpus['windows']:,}, {corpus['tokens']:,} tokens",
        "left out": left_out_text(corpus),
        "units": f"{found.num_units:,}",
        "size": f"{bytes_text(found.num_bytes)}, {found.bytes_per_token:.1f} bytes a token",
        "time": f"{hours_text(found.hours)} in one process on this machine, "
        f"{found.tokens_per_second:,.0f} tokens/s",
        "break-even": f"a teacher beside the student runs {hours_text(found.online_hours)} in "
        f"every epoch of every student: {found.break_even_epochs:.2f} epochs cost as much as this "
        "build",
        "measured on": f"{found.sample_windows:,} random windows, {found.sample_tokens:,} tokens",
        "fingerprint": found.fingerprint,
    }


def hours_text(hours: float) -> str:
    """Return a duration for people."""
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{hours * 60:.1f} minutes" if hours * 60 >= 1 else f"{hours * 3600:.1f} seconds"
