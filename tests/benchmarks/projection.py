"""What a corpus of trillions of tokens would take, carried on from the tables of docs/scale.md.

    python -m tests.benchmarks.projection docs/scale.md [--tokens 1e13] [--gpus 1000]
        [--speed 20000] [--bytes 64.3] [--unit-tokens 1e7] [--latency 0.03]

reads the page's tables of planning and of a thousand workers, and writes another one there. Speed
is that of the teacher on one GPU, in tokens a second, and bytes are those of a target, by default
those of SmolLM2-135M with the default selection (docs/targets.md). These two have to be measured
with the teacher that is meant.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.page_table import put_table, read_table
from tests.benchmarks.planning import LENGTH

GPU_HOURS_A_DEATH = 54 * 24 * 16_384 / 419
"""Of Llama 3's training: 419 unexpected interruptions in 54 days of 16,384 GPUs (2407.21783)."""
STORAGE_PRICE = 0.021
"""US dollars for a GB and a month: S3's standard class in us-east-1, above 500 TB."""
IN_FLIGHT = 2
"""Units of a worker, which it loses when it dies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the page's tables say."""

    windows_per_second: float
    """Planned by one process, of `LENGTH` tokens."""
    num_units: float
    """Of the largest build that was simulated; what follows is of this one."""
    requests_per_unit: float
    dollars_per_million: float
    commit_seconds: float
    table_bytes: float
    """Of the list of all shards."""


def measured(page: Path) -> Measured:
    """Read the tables of a page."""
    _, *plans = read_table(page, "planning")
    speed = next(row[3] for row in plans if row[1] == "in slices, one process")
    head, *rows = read_table(page, "scale")
    last = {row[0]: _number(row[-1]) for row in rows}
    return Measured(
        windows_per_second=_number(speed),
        num_units=_number(head[-1]),
        requests_per_unit=last["requests a unit"],
        dollars_per_million=last["dollars per million units"],
        commit_seconds=last["commit, seconds of CPU"],
        table_bytes=1e6 * last["table of shards"],
    )


def _number(text: str) -> float:
    return float(text.split()[0].replace(",", "").rstrip("%"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be built, and by what."""

    tokens: float
    gpus: float
    speed: float
    bytes: float
    unit_tokens: float
    latency: float

    def lines(self, found: Measured) -> Iterator[str]:
        """Yield the lines of the table."""
        units = self.tokens / self.unit_tokens
        unit_seconds = self.unit_tokens / self.speed
        seconds = units * unit_seconds / self.gpus
        deaths = self.gpus * seconds / 3600 / GPU_HOURS_A_DEATH
        lost = deaths * IN_FLIGHT * unit_seconds / 3600
        hours = self.tokens / (LENGTH * found.windows_per_second) / 3600
        num_bytes = self.tokens * self.bytes
        yield "|  | figure | how it follows |"
        yield "|---|---:|---|"
        for name, figure, reason in (
            ("units, and shards", f"{units:,.0f}", f"{self.unit_tokens:,.0f} tokens each"),
            ("a unit", f"{unit_seconds:,.0f} s", f"{self.speed:,.0f} tokens a second, assumed"),
            ("the teacher", f"{seconds / 86400:,.1f} days", f"on {self.gpus:,.0f} GPUs"),
            ("a shard", f"{self.unit_tokens * self.bytes / 1e6:,.0f} MB",
             f"{self.bytes:g} bytes a target"),
            ("the store", f"{num_bytes / 1e12:,.0f} TB", "shards times units"),
            ("storage a month", f"${num_bytes / 1e9 * STORAGE_PRICE:,.0f}",
             f"${STORAGE_PRICE} for a GB"),
            ("units a second", f"{units / seconds:,.1f}",
             f"one driver gives out {1 / self.latency:,.0f} at the most"),
            ("requests a second", f"{found.requests_per_unit * units / seconds:,.0f}",
             f"{found.requests_per_unit:g} a unit"),
            ("all requests", f"${found.dollars_per_million * units / 1e6:,.0f}",
             f"${found.dollars_per_million:g} for a million units"),
            ("the list of shards", f"{found.table_bytes * units / found.num_units / 1e6:,.0f} MB",
             f"{found.table_bytes / found.num_units:,.0f} bytes a shard"),
            ("commit", f"{found.commit_seconds * units / found.num_units:,.0f} s of CPU",
             f"{1e6 * found.commit_seconds / found.num_units:,.0f} µs a shard"),
            ("GPUs that die", f"{deaths:,.1f}", f"one in {GPU_HOURS_A_DEATH:,.0f} hours of a GPU"),
            ("hours of a GPU that are lost so", f"{lost:,.1f}", f"{IN_FLIGHT} units a death"),
            ("planning", f"{hours:,.0f} hours of a process",
             f"{found.windows_per_second:,.0f} windows of {LENGTH} tokens a second"),
        ):  # fmt: skip
            yield f"| {name} | {figure} | {reason} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--tokens", type=float, default=1e13)
    parser.add_argument("--gpus", type=float, default=1000)
    parser.add_argument("--speed", type=float, default=20_000)
    parser.add_argument("--bytes", type=float, default=64.3)
    parser.add_argument("--unit-tokens", type=float, default=1e7)
    parser.add_argument("--latency", type=float, default=0.03)
    arguments = vars(parser.parse_args())
    page = arguments.pop("page")
    lines = list(Plan(**arguments).lines(measured(page)))
    print("\n".join(lines))
    put_table(page, "projection", lines)


if __name__ == "__main__":
    main()
