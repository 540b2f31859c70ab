"""`softtargets info`."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from softtargets.cli.tables import key_value_table
from softtargets.cli.terminal import cell, echo_json
from softtargets.report.column_sizes import ColumnSizes, column_sizes
from softtargets.report.number_texts import bytes_text, percent_text
from softtargets.report.summary import summary
from softtargets.store import Store
from softtargets.store.sizes import store_sizes

_MOST_SOURCES = 20


@click.command("info")
@click.argument("store", metavar="STORE_OR_URL")
@click.option("--detail", is_flag=True, help="Also tell bytes by column and windows by input file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def info_command(store: str, detail: bool, as_json: bool) -> None:
    """Say what a store holds and what made it.

    The command reads no shard. With --detail, it reads the shards' footers, and also tells the
    bytes of each column and the windows of each input file.
    """
    opened = Store.open(store)
    if as_json:
        data = describe(opened)
        if detail:
            data["column_bytes"] = column_sizes(opened).columns
            data["source_windows"] = opened.source_windows()
        echo_json(data)
        return
    console = Console(highlight=False)
    print_info(console, opened)
    if detail:
        console.print(_column_table(column_sizes(opened)))
        console.print(_source_table(opened.source_windows()))


def describe(store: Store) -> dict[str, Any]:
    """Return everything `info` knows without reading a shard, as JSON.

    `num_bytes` is the size of the shards, `total_bytes` that of all files.
    """
    sizes = store_sizes(store)
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
        "total_bytes": sizes.total,
        "file_bytes": sizes.files,
        "drift": dict(store.manifest.drift) or None,
        "corpus": dict(store.manifest.corpus),
        "identity": dict(store.manifest.identity),
    }


def print_info(console: Console, store: Store) -> None:
    """Print a store's summary."""
    console.print(key_value_table(str(store.location), summary(store)))


def _column_table(sizes: ColumnSizes) -> Table:
    table = _table(f"\nbytes of {sizes.shards_text}, compressed")
    for name in ("column", "what it holds"):
        table.add_column(name, overflow="fold")
    for name in ("bytes", "share", "a target"):
        table.add_column(name, justify="right", no_wrap=True)
    for column, size in sizes.columns.items():
        cells = (
            column,
            sizes.words.get(column, ""),
            bytes_text(size),
            percent_text(size / sizes.num_bytes),
            f"{size / sizes.num_positions:.2f}",
        )
        table.add_row(*map(cell, cells))
    return table


def _source_table(windows: dict[str, int]) -> Table:
    table = _table("\nwindows of each input file")
    table.add_column("input file", overflow="fold")
    table.add_column("windows", justify="right", no_wrap=True)
    for source, number in list(windows.items())[:_MOST_SOURCES]:
        table.add_row(cell(source), f"{number:,}")
    if len(windows) > _MOST_SOURCES:
        table.add_row(f"and {len(windows) - _MOST_SOURCES:,} more", "")
    return table


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="italic", header_style="bold", box=None
    )
