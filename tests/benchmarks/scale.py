"""Builds of many units by many workers, on simulated time and an object store in memory.

    python -m tests.benchmarks.scale [docs/scale.md] [--units 10000 100000 1000000] [--workers 1000]

The code that hands out units, claims, records, resumes and commits them is the real one. Simulated
are the time that a unit takes a worker (60 s, and up to half as much more or less), the time of a
request (30 ms), and the shards, which are all of one content, though each has hashes of its own. A
worker dies at each two-hundredth unit, half of them after the unit was recorded. The driver dies
once, in the middle, and another goes on. Then the store is committed and opened, and a student's
first batch is read in order.

Each number of units has a process of its own. "Driver, busy" is its share of the whole time that
the driver waits for its own requests: at 100% more workers are of no use. "Memory" is the most that
the process had beside what it began with, and beside what the simulated files take.
"""

from __future__ import annotations

import argparse
import heapq
import random
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from softtargets import SoftTargetDataset, Store
from softtargets.capture import BuildConfig, building
from softtargets.capture.planned_units import PlannedUnits
from softtargets.capture.unit_plan import Plan, read_plan, write_plan
from softtargets.capture.units import ScoringJob
from softtargets.engines import Done, Event, Failed, Job
from softtargets.store.leases import PERIOD_SECONDS, Leases
from softtargets.store.shard import encode_shard
from softtargets.store.shard_table import ShardEntry
from softtargets.store.sizes import store_sizes
from softtargets.store.writer import StoreWriter
from tests.benchmarks.lookups import peak_memory
from tests.benchmarks.page_table import put_table
from tests.benchmarks.simulated_place import PRICES, Clock, SimulatedPlace
from tests.fakes import FakeTeacher, build_config, build_store

LATENCY, UNIT_SECONDS, LOAD_SECONDS = 0.03, 60.0, 120.0
DEATHS = 1 / 200
READ_FIRST = 20
"""Units whose shards are real, for a student to read."""


class DriverDeathError(Exception):
    """The driver is gone."""


@dataclass(slots=True)
class SimulatedWorkers:
    """An engine of workers that live in simulated time, two units in flight each."""

    clock: Clock
    num_workers: int
    shard_of: Callable[[int], tuple[bytes, ShardEntry]]
    rng: random.Random
    dies_after: int
    """Units after which the driver dies."""
    num_deaths: int = 0
    idle: float = 0.0
    """Seconds in which the driver waited for workers."""

    def run(self, job: Job, take: Callable[[], int | None]) -> Generator[Event]:
        """Run units until none can be had."""
        assert isinstance(job, ScoringJob)
        free = [LOAD_SECONDS + self.clock.now] * self.num_workers
        ends: list[tuple[float, int, int]] = []

        def give(worker: int) -> None:
            unit = take()
            if unit is not None:
                seconds = UNIT_SECONDS * self.rng.uniform(0.5, 1.5)
                free[worker] = max(free[worker], self.clock.now) + seconds
                heapq.heappush(ends, (free[worker], worker, unit))

        for worker in [*range(self.num_workers)] * 2:
            give(worker)
        while ends:
            time, worker, unit = heapq.heappop(ends)
            event, heard = self._end(job, unit, time)
            self.idle += max(0.0, heard - self.clock.now)
            self.clock.now = max(self.clock.now, heard)
            if event is None:
                self.num_deaths += 1
                free[worker] = self.clock.now + LOAD_SECONDS
                entry = job.recorded(unit)
                event = Failed(unit, "its process died") if entry is None else Done(entry)
            yield event
            self.dies_after -= 1
            if not self.dies_after:
                assert isinstance(job.writer.place, SimulatedPlace)
                job.writer.place.is_unreachable = True
                raise DriverDeathError
            give(worker)

    def _end(self, job: ScoringJob, unit: int, time: float) -> tuple[Event | None, float]:
        """Return what a worker says of its unit, None if it died, and when that is heard."""
        fate = self.rng.random()
        if fate < DEATHS / 2:
            return None, time
        content, entry = self.shard_of(unit)
        with self.clock.at(time):
            job.writer.place.get(f"work/plan/unit-{unit:06d}.parquet")
            entry = job.writer.record(entry, content)
            time = self.clock.now
        return (None if fate < DEATHS else Done(entry)), time


@dataclass(frozen=True, slots=True, kw_only=True)
class Building:
    """What it took to run the units."""

    num_units: int
    num_deaths: int
    hours: float
    """Simulated, as all but `seconds`."""
    ideal_hours: float
    """If no worker ever waited or died."""
    busy: float
    seconds: float
    """Of CPU time, of the driver and of all workers' records."""
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What it takes to read a store's first batch."""

    manifest_bytes: int
    table_bytes: int
    """Of the table that lists the shards where there are very many."""
    seconds: float
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a store of some units took."""

    building: Building
    commit_seconds: float
    requests: dict[str, int]
    reading: Reading

    @property
    def num_requests(self) -> int:
        """Return the number of requests, those that cost nothing too."""
        return sum(self.requests.values())

    @property
    def dollars(self) -> float:
        """Return what the requests of a million units would cost."""
        cost = sum(PRICES[kind] * number for kind, number in self.requests.items())
        return cost * 1e6 / self.building.num_units


@contextmanager
def simulated_time(clock: Clock, place: SimulatedPlace) -> Iterator[None]:
    """Let leases and queue live in simulated time; heartbeats are counted when it has passed."""

    @contextmanager
    def beating(leases: Leases) -> Iterator[None]:
        path, began = f"work/workers/{leases._worker}", clock.now
        leases._beat(path, 0)
        try:
            yield
        finally:
            place.requests["PUT"] += int((clock.now - began) / PERIOD_SECONDS)
            place.delete(path)

    with (
        patch("softtargets.store.leases.time", clock),
        patch("softtargets.capture.unit_queue.time", clock),
        patch.object(Leases, "beating", beating),
    ):
        yield


def shards(directory: Path) -> tuple[Any, Callable[[int], tuple[bytes, ShardEntry]]]:
    """Return the identity of a store, and what makes its shards, which are of one size."""
    store = build_store(directory)
    identity, entry = store.manifest.identity, store.manifest.shards[0]
    windows = [store[one] for one in list(store.window_ids())[:4]]
    content = (store.root / entry.path).read_bytes()

    def shard_of(unit: int) -> tuple[bytes, ShardEntry]:
        if unit >= READ_FIRST:
            return content, with_own_hashes(entry, unit)
        return encode_shard(
            windows, store.targets, store.fingerprint, unit,
            compression=identity["compression"], run=entry.run,
        )  # fmt: skip

    return identity, shard_of


def with_own_hashes(entry: ShardEntry, unit: int) -> ShardEntry:
    """Return the entry of a unit as if its content were its own: its hashes are like no other's."""
    own = sha256(str(unit).encode()).hexdigest()
    groups = tuple(
        replace(group, xxh3=own[32 + number :][:16])
        for number, group in enumerate(entry.row_groups)
    )
    return replace(entry, unit=unit, sha256=own, footer_xxh3=own[16:32], row_groups=groups)


def simulate(num_units: int, num_workers: int) -> Found:
    """Build, kill the driver once, go on, commit, open, and read."""
    clock = Clock()
    place = SimulatedPlace(clock, LATENCY)
    with tempfile.TemporaryDirectory() as name:
        identity, shard_of = shards(Path(name))
        config = build_config(Path(name))
    units = PlannedUnits(np.full(num_units, 4), np.full(num_units, 60))
    counts = {"windows": units.num_windows, "tokens": units.num_tokens}
    plan = Plan(units=units, corpus=counts, teacher="simulated")
    engine = SimulatedWorkers(clock, num_workers, shard_of, random.Random(0), num_units // 2)
    before = peak_memory() * 1024
    place.requests["PUT"] += num_units  # The windows of units, when the corpus was planned.
    began = time.process_time()
    with simulated_time(clock, place):
        with suppress(DriverDeathError), StoreWriter.hold(place, identity) as writer:
            write_plan(plan, place, writer.fingerprint)
            run(config, writer, engine)
        place.is_unreachable = False
        with StoreWriter.hold(place, identity) as writer:
            run(config, writer, engine)
            found = Building(
                num_units=num_units,
                num_deaths=engine.num_deaths,
                hours=clock.now / 3600,
                ideal_hours=num_units * UNIT_SECONDS / num_workers / 3600,
                busy=1 - engine.idle / clock.now,
                seconds=time.process_time() - began,
                num_bytes=peak_memory() * 1024 - before - place.held_bytes(),
            )
            began = time.process_time()
            writer.commit(num_units, "simulated", counts)
    return Found(
        building=found,
        commit_seconds=time.process_time() - began,
        requests=dict(place.requests),
        reading=read(place, num_units),
    )


def run(config: BuildConfig, writer: StoreWriter, engine: SimulatedWorkers) -> None:
    """Run what is left of a plan, as a build does."""
    plan = read_plan(writer.place, writer.fingerprint)
    assert plan is not None
    building._run(config, FakeTeacher(), writer, plan, lambda _: None, engine)


def read(place: SimulatedPlace, num_units: int) -> Reading:
    """Open a store, check that it has each unit once and nothing else, and read a batch."""
    Path("/proc/self/clear_refs").write_text("5")  # The peak is what there is now.
    before, began = peak_memory(), time.perf_counter()
    store = Store.open(place)
    next(iter(SoftTargetDataset(store, batch_size=8)))
    seconds, num_bytes = time.perf_counter() - began, (peak_memory() - before) * 1024
    sizes = store_sizes(store)
    reading = Reading(
        manifest_bytes=sizes.manifest,
        table_bytes=sum(sizes.table.values()),
        seconds=seconds,
        num_bytes=num_bytes,
    )
    paths = store.manifest.shards.paths
    assert len(set(paths)) == num_units
    assert sorted(paths) == place.list("shards")
    return reading


def table(found: Sequence[Found], num_workers: int) -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"{num_workers:,} workers, one driver, {LATENCY * 1000:.0f} ms a request."
    yield ""
    columns: dict[str, Callable[[Found], str]] = {
        "units": lambda one: f"{one.building.num_units:,}",
        "workers that died": lambda one: f"{one.building.num_deaths:,}",
        "hours, at best": lambda one: f"{one.building.ideal_hours:.2f}",
        "hours": lambda one: f"{one.building.hours:.2f}",
        "driver, busy": lambda one: f"{one.building.busy:.0%}",
        "requests a unit": lambda one: f"{one.num_requests / one.building.num_units:.1f}",
        "dollars per million units": lambda one: f"{one.dollars:.0f}",
        "driver, seconds of CPU": lambda one: f"{one.building.seconds:.0f}",
        "driver, memory": lambda one: megabytes(one.building.num_bytes),
        "commit, seconds of CPU": lambda one: f"{one.commit_seconds:.1f}",
        "manifest": lambda one: megabytes(one.reading.manifest_bytes),
        "table of shards": lambda one: megabytes(one.reading.table_bytes),
        "first batch, seconds": lambda one: f"{one.reading.seconds:.1f}",
        "first batch, memory": lambda one: megabytes(one.reading.num_bytes),
    }
    yield "| " + " | ".join(["", *(columns["units"](one) + " units" for one in found)]) + " |"
    yield "|---|" + "---:|" * len(found)
    for name, text in list(columns.items())[1:]:
        yield "| " + " | ".join([name, *(text(one) for one in found)]) + " |"


def megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, nargs="?")
    parser.add_argument("--units", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=1000)
    arguments = parser.parse_args()
    found = []
    for num_units in arguments.units:
        # A process of its own, for its memory.
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            found.append(process.submit(simulate, num_units, arguments.workers).result())
        print(found[-1], flush=True)
    lines = list(table(found, arguments.workers))
    print("\n".join(lines))
    if arguments.page:
        put_table(arguments.page, "scale", lines)


if __name__ == "__main__":
    main()
