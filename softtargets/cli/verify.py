"""`softtargets verify`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from softtargets.store import VerifyReport, verify

MOST_SHOWN = 20


@click.command("verify")
@click.argument("store", type=click.Path(path_type=Path))
def verify_command(store: Path) -> None:
    """Read a whole store and check every checksum, count and invariant.

    Exits with 0 only when everything holds.
    """
    console = Console(highlight=False)
    if not print_verification(console, store).is_sound:
        raise click.exceptions.Exit(1)


def print_verification(console: Console, path: Path) -> VerifyReport:
    """Verify a store and print what came out."""
    report = verify(path)
    checked = (
        f"{report.num_shards:,} shards, {report.num_windows:,} windows and "
        f"{report.num_positions:,} targets"
    )
    if report.is_sound:
        console.print(f"{path} is sound: {checked} checked.")
        return report
    console.print(f"{path} is damaged: {len(report.problems)} problem(s) in {checked} read.")
    table = Table("where", "expected", "found", show_lines=True)
    for problem in report.problems[:MOST_SHOWN]:
        table.add_row(problem.where, problem.expected, problem.found)
    console.print(table)
    if len(report.problems) > MOST_SHOWN:
        console.print(f"... and {len(report.problems) - MOST_SHOWN} more.")
    console.print("Restore the files from a copy, or build the store again in a new directory.")
    return report
