"""`softtargets verify`."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from softtargets.errors import InputError
from softtargets.store import Store, VerifyReport, verify

MOST_SHOWN = 20


@click.command("verify")
@click.argument("store", metavar="STORE_OR_URL")
@click.option("--fast", is_flag=True, help="Check sizes and footers only; read no targets.")
@click.option(
    "--rescore",
    "num_windows",
    type=int,
    metavar="N",
    help="Also run the teacher over N random windows again and compare; needs --teacher.",
)
@click.option("--teacher", metavar="DIR_OR_ID", help="The teacher that the store was built from.")
@click.option("--revision", help="Branch, tag or commit of a Hub id.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N, mps.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the model.")
def verify_command(
    store: str, fast: bool, num_windows: int | None, teacher: str | None, **options: Any
) -> None:
    """Read a whole store and check every checksum, count and invariant.

    With --rescore, the stored targets are compared with the live teacher's, beside what the teacher
    itself varies by in batches of other windows, and what keeping only some entries loses.

    Exits with 0 only when everything holds.
    """
    if (num_windows is None) != (teacher is None):
        raise click.UsageError("--rescore and --teacher go together.")
    opened = Store.open(store)
    is_sound = print_verification(opened, fast=fast).is_sound
    if is_sound and num_windows is not None:
        is_sound = print_rescoring(opened, num_windows, name=str(teacher), **options)
    if not is_sound:
        raise click.exceptions.Exit(1)


def print_rescoring(store: Store, num_windows: int, *, name: str, **options: Any) -> bool:
    """Compare a store with its teacher, as it was run for it, and print what came out."""
    from transformers.utils import logging as transformers_logging

    from softtargets.capture import TeacherConfig, TransformersTeacher, rescore

    transformers_logging.disable_progress_bar()
    if "imported" in store.manifest.identity:
        raise InputError(
            f"{store.location}",
            expected="a store whose teacher is known, to be compared with it",
            found="one of imported lists",
            next_step="verify without --rescore checks what can be checked of it.",
        )
    identity = store.manifest.identity["teacher"]
    config = TeacherConfig(
        name=name,
        dtype=identity["dtype"],
        attention=identity["attention"],
        compile=identity.get("compile", False),
        **options,
    )
    report = rescore(store, TransformersTeacher(config), num_windows)
    table = Table(
        title=f"{report.num_windows:,} windows, {report.num_positions:,} targets, in nats: mean of "
        "the largest difference of log-probabilities, and KL"
    )
    columns = ("temperature", "stored to live", "live to live", "may add", "KL stored", "KL live")
    for column in (*columns, "KL of the top k", "draws off", ""):
        table.add_column(column, justify="right")
    for one in report.temperatures:
        numbers = (one.stored.largest, one.live.largest, one.bound)
        divergences = (one.stored.kl, one.live.kl, one.truncation_kl)
        table.add_row(
            f"{one.temperature:g}",
            *(f"{number:.4f}" for number in numbers),
            *("-" if number is None else f"{number:.2e}" for number in divergences),
            "-" if one.draws_deviation is None else f"{one.draws_deviation:+.1f} s.e.",
            "holds" if one.holds else "FAILS",
        )
    Console(highlight=False, width=120).print(table)
    if report.holds:
        click.echo(f"{store.location} agrees with the live teacher.")
    else:
        click.echo(
            f"{store.location} does not agree with the live teacher: its targets differ by more "
            "than the teacher's own rounding and the stored form explain. They belong to other "
            "positions, or to another teacher. Build the store again."
        )
    return report.holds


def print_verification(store: Store, *, fast: bool = False) -> VerifyReport:
    """Verify a store and print what came out."""
    where = store.location
    report = verify(store, fast=fast)
    checked = (
        f"{report.num_shards:,} shards, {report.num_windows:,} windows and "
        f"{report.num_positions:,} targets"
    )
    if report.is_sound:
        if fast:
            click.echo(f"{where}: sizes and footers hold; nothing else was read of {checked}.")
        else:
            click.echo(f"{where} is sound: {checked} checked.")
        return report
    number = len(report.problems)
    click.echo(f"{where} is damaged: {number} problem{'s' * (number != 1)} in {checked} read.")
    for problem in report.problems[:MOST_SHOWN]:
        click.echo(f"- {problem.where}: expected {problem.expected}; found {problem.found}.")
    if number > MOST_SHOWN:
        click.echo(f"... and {number - MOST_SHOWN} more.")
    click.echo("Restore the files from a copy, or build the store again in a new directory.")
    return report
