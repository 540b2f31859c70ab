"""`softtargets clean`."""

from __future__ import annotations

import click

from softtargets.cli.paths import STORE
from softtargets.cli.terminal import echo
from softtargets.places import Place
from softtargets.store import clean_store
from softtargets.texts import plural


@click.command("clean")
@click.argument("store", type=STORE)
@click.option("--dry-run", is_flag=True, help="Print what would be removed, and remove nothing.")
def clean_command(store: Place, dry_run: bool) -> None:
    """Remove what processes left that died while they built a store.

    Nothing is removed that the store has, or that a build needs to continue. In an object store
    with a build that is not done, processes are watched for half a minute to see which are dead.
    """
    paths = clean_store(store, dry_run=dry_run)
    echo(*paths)
    echo(f"{store}: {plural(len(paths), 'file')} {'to remove' if dry_run else 'removed'}.")
