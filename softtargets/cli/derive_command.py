"""`softtargets merge`, `split` and `filter`."""

from __future__ import annotations

import click

from softtargets.cli.paths import STORE
from softtargets.cli.terminal import echo
from softtargets.places import Place
from softtargets.store import Store, filter_store, merge_stores, split_store
from softtargets.texts import plural


@click.command("merge")
@click.argument("stores", metavar="STORE_OR_URL...", nargs=-1, required=True)
@click.option("--output", required=True, type=STORE, help="Directory or URL of the merged store.")
def merge_command(stores: tuple[str, ...], output: Place) -> None:
    """Merge stores of different texts.

    The stores must be made in the same way. A window that occurs again is omitted.
    """
    say_store(merge_stores(stores, output))


@click.command("split")
@click.argument("store", metavar="STORE_OR_URL")
@click.option("--train", required=True, type=STORE, help="Directory or URL of the larger part.")
@click.option(
    "--validation", required=True, type=STORE, help="Directory or URL of the smaller part."
)
@click.option("--fraction", default=0.05, help="Share of documents for validation.")
@click.option("--seed", default=0, help="Another seed is another choice.")
def split_command(store: str, train: Place, validation: Place, fraction: float, seed: int) -> None:
    """Split a store in two. All windows of a document go to the same part."""
    for part in split_store(store, train, validation, fraction=fraction, seed=seed):
        say_store(part)


@click.command("filter")
@click.argument("store", metavar="STORE_OR_URL")
@click.option("--output", required=True, type=STORE, help="Directory or URL of the new store.")
@click.option("--source", "sources", multiple=True, help="Input file to keep. Repeat for more.")
@click.option("--trained-only", is_flag=True, help="Omit windows without a target to train on.")
def filter_command(store: str, output: Place, sources: tuple[str, ...], trained_only: bool) -> None:
    """Write a store of some of a store's windows."""
    say_store(filter_store(store, output, sources=sources or None, trained_only=trained_only))


def say_store(store: Store) -> None:
    """Print where a store is and how large."""
    windows, targets = plural(len(store), "window"), plural(store.num_positions, "target")
    echo(f"{store.location}: {windows}, {targets}")
