"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from softtargets.cli.terminal import cell


def key_value_table(title: str, rows: Mapping[str, str]) -> Table:
    """Return a table of two columns."""
    table = Table(title=cell(title), title_justify="left", show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, cell(value))
    return table


def left_out_text(corpus: Mapping[str, int]) -> str:
    """Return what of a corpus gave no target, as far as there is any."""
    counts = [
        ("invalid_documents", "invalid documents"),
        ("repeated_windows", "repeated windows"),
        ("untargeted_windows", "windows without targets"),
        ("single_tokens", "single tokens"),
        ("empty_documents", "empty documents"),
        ("truncated_tokens", "truncated tokens"),
    ]
    parts = [f"{corpus[name]:,} {text}" for name, text in counts if corpus.get(name)]
    return ", ".join(parts) or "nothing"
