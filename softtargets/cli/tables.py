"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from softtargets.cli.terminal import cell
from softtargets.texts import plural

if TYPE_CHECKING:
    from softtargets.capture import BuildConfig


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
        ("invalid_documents", "invalid document", ""),
        ("repeated_windows", "repeated window", ""),
        ("untargeted_windows", "window without targets", "windows without targets"),
        ("single_tokens", "single token", ""),
        ("empty_documents", "empty document", ""),
        ("truncated_tokens", "truncated token", ""),
        ("truncated_source_tokens", "of them of a source", "of them of sources"),
        ("truncated_target_tokens", "of them of a target", "of them of targets"),
        (
            "partly_written_documents",
            "conversation in part, by the chat template",
            "conversations in part, by the chat template",
        ),
    ]
    parts = [plural(corpus[name], one, many) for name, one, many in counts if corpus.get(name)]
    return ", ".join(parts) or "nothing"


def windows_text(config: BuildConfig, corpus: Mapping[str, int]) -> str:
    """Return how many windows there are, and how the documents became them."""
    how = config.capture_task.describe_cut(config.windowing)
    return f"{corpus['windows']:,}, {plural(corpus['tokens'], 'token')}: {how}"
