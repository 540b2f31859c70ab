"""`softtargets verify`."""

from __future__ import annotations

from pathlib import Path

import click

from softtargets.store import VerifyReport, verify

MOST_SHOWN = 20


@click.command("verify")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--fast", is_flag=True, help="Check sizes and footers only; read no targets.")
def verify_command(store: Path, fast: bool) -> None:
    """Read a whole store and check every checksum, count and invariant.

    Exits with 0 only when everything holds.
    """
    if not print_verification(store, fast=fast).is_sound:
        raise click.exceptions.Exit(1)


def print_verification(path: Path, *, fast: bool = False) -> VerifyReport:
    """Verify a store and print what came out."""
    report = verify(path, fast=fast)
    checked = (
        f"{report.num_shards:,} shards, {report.num_windows:,} windows and "
        f"{report.num_positions:,} targets"
    )
    if report.is_sound:
        if fast:
            click.echo(f"{path}: sizes and footers hold; nothing else was read of {checked}.")
        else:
            click.echo(f"{path} is sound: {checked} checked.")
        return report
    number = len(report.problems)
    click.echo(f"{path} is damaged: {number} problem{'s' * (number != 1)} in {checked} read.")
    for problem in report.problems[:MOST_SHOWN]:
        click.echo(f"- {problem.where}: expected {problem.expected}; found {problem.found}.")
    if number > MOST_SHOWN:
        click.echo(f"... and {number - MOST_SHOWN} more.")
    click.echo("Restore the files from a copy, or build the store again in a new directory.")
    return report
