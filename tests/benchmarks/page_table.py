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
