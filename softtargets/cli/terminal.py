"""What reaches the terminal: lines, table cells and JSON, in which foreign text is shown only.

Names of files, of stores and of what is in them come from others. Nothing else in this package
writes to the terminal.
"""

from __future__ import annotations

import json
from typing import Any

import click
from rich.text import Text

from softtargets.texts import shown


def echo(*lines: str, err: bool = False) -> None:
    """Print lines; a control character within one, a line break too, is shown and not obeyed."""
    for line in lines:
        click.echo(shown(line), err=err)


def echo_json(data: Any) -> None:
    """Print JSON, all of it in ASCII."""
    click.echo(json.dumps(data, indent=1))


def cell(text: str, style: str = "") -> Text:
    """Return a text for a table, in which nothing is markup."""
    return Text(shown(text), style=style)
