"""Tables and numbers for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table


def key_value_table(title: str, rows: Mapping[str, str]) -> Table:
    """Return a table of two columns."""
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def bytes_text(num_bytes: float) -> str:
    """Return a size for people, in decimal units."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.1f} {unit}"
    return f"{num_bytes:,.0f} bytes"
