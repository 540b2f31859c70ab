"""Builds under schedules of random faults, and how many of each kind they survived.

    python -m tests.benchmarks.schedules [docs/engines.md] [--schedules N] [--first SEED] [--ray]

Each schedule builds a small store in an object store behind a proxy. Two drivers begin at once,
with one or two workers each, and are killed, as their workers are, at random. Another driver goes
on until one says that the store is made. The proxy answers requests with errors, before or after
they are done, cuts answers, sends them slowly, delivers requests twice, and answers with listings
of the past. After each schedule the store has to be the bytes of an undisturbed one, with the same
fingerprint. Each window was read, and none after its unit was recorded. `clean` leaves exactly the
store. With --ray, units run in actors of a cluster of two nodes.

Prints a table, and writes it into the page. Exits with 1 if something was wrong with a schedule,
whose seed it prints; --first SEED --schedules 1 runs that one again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tests.benchmarks.page_table import put_table
from tests.object_store import run_conditional_server
from tests.schedules import Expected, Outcome, draw, hurry, run_schedule

KINDS = {
    "error 500": "answered 500, not done",
    "error 503": "answered 503, not done",
    "lost 500": "done, answered 500",
    "lost 503": "done, answered 503",
    "gone": "done, connection closed without an answer",
    "cut": "answer cut in the middle",
    "slow": "answer in pieces",
    "twice": "request delivered twice",
    "stale": "listing of the past",
    "driver killed": "driver killed",
    "worker killed": "worker killed",
}
"""What the table calls each kind of fault."""


def run(
    seeds: range, port: int, directory: Path, at_once: int, address: str | None
) -> Iterator[tuple[int, Outcome]]:
    """Yield the outcomes of schedules, some of which run at the same time."""
    (directory / "undisturbed").mkdir()
    expected = Expected.build(directory / "undisturbed")

    def outcome_of(seed: int) -> Outcome:
        own = directory / str(seed)
        own.mkdir()
        return run_schedule(draw(seed), expected, port, own, address)

    with ThreadPoolExecutor(at_once) as threads:
        yield from zip(seeds, threads.map(outcome_of, seeds), strict=True)


def table(outcomes: list[Outcome], name_of_workers: str) -> Iterator[str]:
    """Yield the lines of the page."""
    sound = [outcome for outcome in outcomes if not outcome.problems]
    met, survived = (sum((one.faults for one in ones), Counter()) for ones in (outcomes, sound))
    yield f"{len(outcomes):,} schedules, of which {len(sound):,} gave the undisturbed store."
    yield ""
    yield "| fault | injected | survived |"
    yield "|---|---:|---:|"
    for kind, words in KINDS.items():
        words = words.replace("worker", name_of_workers)
        yield f"| {words} | {met[kind]:,} | {survived[kind]:,} |"
    yield ""
    yield (
        f"{sum(one.num_drivers for one in outcomes):,} drivers were started. "
        f"{sum(one.num_gave_up for one in outcomes):,} of them could not reach the place any more. "
        f"{sum(one.num_again for one in outcomes):,} windows were read again."
    )


def main() -> None:
    """Run the schedules that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", nargs="?", type=Path, help="to write the table into")
    parser.add_argument("--schedules", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first schedule")
    parser.add_argument("--at-once", type=int, default=1, help="schedules at the same time")
    parser.add_argument("--ray", action="store_true", help="run units on a cluster of Ray")
    options = parser.parse_args()
    hurry()
    outcomes: list[Outcome] = []
    seeds = range(options.first, options.first + options.schedules)
    with (
        tempfile.TemporaryDirectory() as directory,
        run_conditional_server() as port,
        _cluster(options.ray) as cluster,
    ):
        address = cluster.address if options.ray else None
        for seed, outcome in run(seeds, port, Path(directory), options.at_once, address):
            outcomes.append(outcome)
            said = "; ".join(outcome.problems) or "as undisturbed"
            print(f"{seed}: {outcome.faults.total()} faults, {said}", flush=True)
    lines = list(table(outcomes, "actor" if options.ray else "worker"))
    print("\n".join(lines))
    if options.page is not None:
        put_table(options.page, "schedules on Ray" if options.ray else "schedules", lines)
    sys.exit(any(outcome.problems for outcome in outcomes))


def _cluster(is_wanted: bool) -> Any:
    from tests.ray_engine.conftest import run_cluster

    return run_cluster() if is_wanted else nullcontext()


if __name__ == "__main__":
    main()
