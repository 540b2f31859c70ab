"""`softtargets report`."""

from __future__ import annotations

from pathlib import Path

import click

from softtargets.cli.paths import LocalPath
from softtargets.cli.terminal import echo
from softtargets.errors import InputError
from softtargets.places.local_files import write_file
from softtargets.store import Store


@click.command("report")
@click.argument("store", metavar="STORE_OR_URL")
@click.option(
    "--output",
    required=True,
    type=LocalPath("a local file to write to"),
    help="Path of the HTML page.",
)
@click.option(
    "--windows",
    "most_windows",
    type=click.IntRange(1),
    default=1000,
    help="Most windows to take statistics of, evenly spread over the store.",
)
@click.option(
    "--examples",
    "num_examples",
    type=click.IntRange(0),
    default=3,
    help="Windows to show, evenly spread over the store.",
)
@click.option(
    "--window",
    "window_ids",
    multiple=True,
    metavar="ID",
    help="Window to show instead, by its id or how that begins. Repeat for more.",
)
def report_command(
    store: str, output: Path, most_windows: int, num_examples: int, window_ids: tuple[str, ...]
) -> None:
    """Write an HTML page that shows a store.

    The page tells what the store is, and has statistics and example windows. It needs no network
    and no other file.
    """
    from softtargets.report.number_texts import bytes_text
    from softtargets.report.page import report

    if not output.parent.is_dir():
        raise InputError(
            "--output",
            expected="a path in a directory that is there",
            found=f"{output}",
            next_step="Make its directory, or pass another path.",
        )
    page = report(
        Store.open(store),
        most_windows=most_windows,
        num_examples=num_examples,
        window_ids=window_ids,
    )
    content = page.encode()
    write_file(output, content)
    echo(f"{output}: {bytes_text(len(content))}; open it in a browser.")
