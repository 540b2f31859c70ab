"""`softtargets info`."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console

from softtargets.cli.tables import key_value_table
from softtargets.report.summary import summary
from softtargets.store import Store


@click.command("info")
@click.argument("store", metavar="STORE_OR_URL")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def info_command(store: str, as_json: bool) -> None:
    """Say what a store holds and what made it, from its manifest alone."""
    opened = Store.open(store)
    if as_json:
        click.echo(json.dumps(describe(opened), indent=1))
    else:
        print_info(Console(highlight=False), opened)


def describe(store: Store) -> dict[str, Any]:
    """Return everything `info` knows, as JSON."""
    return {
        "path": str(store.location),
        "fingerprint": store.fingerprint,
        "created_by": store.manifest.created_by,
        "teacher": store.manifest.teacher,
        "num_shards": len(store.manifest.shards),
        "num_windows": len(store),
        "num_positions": store.num_positions,
        "num_bytes": store.num_bytes,
        "bytes_per_position": store.num_bytes / store.num_positions,
        "corpus": dict(store.manifest.corpus),
        "identity": dict(store.manifest.identity),
    }


def print_info(console: Console, store: Store) -> None:
    """Print a store's summary."""
    console.print(key_value_table(str(store.location), summary(store)))
