"""Tables on pages that a command measures and writes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def put_table(page: Path, name: str, lines: Iterable[str]) -> None:
    """Write a table anew, between the comments on the page that name it."""
    start, end = f"<!-- {name} -->", "<!-- end of the table -->"
    before, rest = page.read_text().split(start)
    after = rest.split(end, 1)[1]
    page.write_text(f"{before}{start}\n\n" + "\n".join(lines) + f"\n\n{end}{after}")


def read_table(page: Path, name: str) -> list[list[str]]:
    """Return the cells of such a table, row by row, its head first.

    Raises:
        ValueError: there is no table between the comments.
    """
    between = page.read_text().split(f"<!-- {name} -->")[1].split("<!-- end of the table -->")[0]
    rows = [line.strip("|").split("|") for line in between.splitlines() if line.startswith("|")]
    if len(rows) < 3:
        raise ValueError(f"{page} has no table '{name}': run the command that writes it")
    return [[cell.strip() for cell in row] for at, row in enumerate(rows) if at != 1]
