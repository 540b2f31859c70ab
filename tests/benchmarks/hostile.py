"""Attack every command with hostile input, and say what came of it.

    python -m tests.benchmarks.hostile [docs/trust.md] [--only WORD]

Each attack meets the command in a process of its own, whose output is read from a terminal. Harm is
a traceback, death by a signal, more than 1 GB of memory (of which some 430 MB are the code of torch
and pyarrow), more than 30 seconds, a control character on the terminal, a wrong verdict, or what
the attack itself looks for: a file gone, a secret shown, a number that reached a student.

With a page, its table is written anew. Exits with 1 when an attack did harm.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.attacks.attack import Attack, Outcome
from tests.attacks.every import ATTACKS
from tests.attacks.processes import processes
from tests.benchmarks.page_table import put_table

MOST_SECONDS = 30.0

TABLE = "table of attacks"
_COLUMNS = ("what was tried", "tried", "detected", "refused", "unharmed", "harmed", "MB", "seconds")


@dataclass(slots=True)
class Kind:
    """What came of the attacks of one kind."""

    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("detected", "refused", "unharmed", "harmed"), 0)
    )
    peak_bytes: int = 0
    seconds: float = 0.0

    def add(self, attack: Attack, outcome: Outcome, harm: str) -> None:
        """Count an attack."""
        self.counts[_verdict(attack, outcome, harm)] += 1
        self.peak_bytes = max(self.peak_bytes, outcome.peak_bytes)
        self.seconds = max(self.seconds, outcome.seconds)

    def cells(self, name: str) -> list[str]:
        """Return the kind's row of the table."""
        numbers = (sum(self.counts.values()), *self.counts.values())
        megabytes, seconds = f"{self.peak_bytes / 1e6:,.0f}", f"{self.seconds:.1f}"
        return [name, *(f"{number:,}" for number in numbers), megabytes, seconds]


def _verdict(attack: Attack, outcome: Outcome, harm: str) -> str:
    if harm:
        return "harmed"
    if attack.wanted == "survived":
        return "unharmed"
    # `verify` goes on and tells all that is wrong; other commands stop at the first.
    return "detected" if "is damaged:" in outcome.output else "refused"


def run(numbers: Sequence[int]) -> tuple[dict[str, Kind], list[str]]:
    """Return what came of attacks by kind, and the harm that was done."""
    kinds: dict[str, Kind] = {}
    harms = []
    with tempfile.TemporaryDirectory() as name, processes() as attackers:
        for number in numbers:
            attack, directory = ATTACKS[number], Path(name) / str(number) / "place"
            directory.mkdir(parents=True)
            outcome, harm = attackers.carry_out(number, directory)
            if outcome.seconds > MOST_SECONDS:
                harm = harm or f"{outcome.seconds:.0f} seconds"
            kinds.setdefault(attack.kind, Kind()).add(attack, outcome, harm)
            if harm:
                harms.append(f"{attack.kind}, {attack.name}: {harm}")
    return kinds, harms


def table(kinds: dict[str, Kind]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield f"| {' | '.join(_COLUMNS)} |"
    yield f"|---|{'---:|' * (len(_COLUMNS) - 1)}"
    for name, kind in kinds.items():
        yield f"| {' | '.join(kind.cells(name))} |"
    every = Kind(
        counts={one: sum(kind.counts[one] for kind in kinds.values()) for one in Kind().counts},
        peak_bytes=max(kind.peak_bytes for kind in kinds.values()),
        seconds=max(kind.seconds for kind in kinds.values()),
    )
    yield f"| {' | '.join(f'**{cell}**' for cell in every.cells('all'))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, nargs="?")
    parser.add_argument("--only", default="", help="attacks whose kind or name has this word")
    arguments = parser.parse_args()
    names = [f"{one.kind}, {one.name}" for one in ATTACKS]
    kinds, harms = run([at for at, name in enumerate(names) if arguments.only in name])
    lines = list(table(kinds))
    print("\n".join(lines))
    print("\n".join(harms) or "No attack did harm.")
    if arguments.page is not None:
        put_table(arguments.page, TABLE, lines)
    sys.exit(bool(harms))


if __name__ == "__main__":
    main()
