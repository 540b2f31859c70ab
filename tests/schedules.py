"""Builds in an object store under faults that are drawn at random, and what holds after each.

A schedule is a function of its seed: which requests go wrong and how, which batches kill the
process that reads them, and after how many requests a driver is killed. When it meets which process
is left to the machine.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from softtargets import Store, verify
from softtargets.capture import BuildConfig, build
from softtargets.engines import RayActors
from softtargets.errors import SoftTargetsError, StoreError
from softtargets.places import place_to_write, retries
from softtargets.store import clean_store, leases
from tests.capture.test_ranges import start
from tests.capture.test_shared_places import PATHS
from tests.fakes import FakeTeacher, build_config, build_store
from tests.object_store import LISTS, Fault, Proxy, make_bucket, run_proxy
from tests.places.conformance import by_number, contents
from tests.processes import server_address, use_server, wait_until_gone

PERIOD = 0.5
"""Seconds between heartbeats. A process that misses three counts as dead, so it is no shorter."""
MOST_DRIVERS = 20
GAVE_UP, FAILED = 3, 4
"""How a driver ends: it could not reach the place, or something is wrong."""
KINDS: dict[str, tuple[Literal["error", "cut", "lost", "gone", "twice", "slow"], ...]] = {
    "PUT": ("error", "lost", "gone", "twice", "slow"),
    "GET": ("error", "cut", "gone", "slow"),
    "HEAD": ("error", "gone"),
    "POST": ("error", "lost", "gone", "twice"),
}


def hurry() -> None:
    """Beat often, and try again soon, in this process."""
    leases.PERIOD_SECONDS = PERIOD
    retries.FIRST_WAIT = 0.001


@dataclass(kw_only=True)
class Schedule:
    """What is to happen to two drivers that build at once, and to those that come after them."""

    faults: list[Fault]
    workers: tuple[int, int]
    """Of each driver."""
    deadly: tuple[int, ...]
    """Batches whose reader is killed, by their number among all that are read."""
    kills: tuple[int, ...]
    """After how many requests a driver is killed."""


def draw(seed: int) -> Schedule:
    """Return a schedule: two deaths of workers at most, so that no unit fails three times."""
    rng = random.Random(seed)
    faults: list[Fault] = []
    for method, kinds in KINDS.items():
        for _ in range(rng.randint(1, 9)):
            fault = Fault(
                kind=rng.choice(kinds), method=method, path=rng.choice(PATHS),
                times=rng.randint(1, 2), skip=rng.randint(0, 12), status=rng.choice((500, 503)),
            )  # fmt: skip
            faults.append(fault)
    for _ in range(rng.randint(0, 6)):
        times, skip = rng.randint(1, 4), rng.randint(0, 4)
        faults.append(Fault(kind="stale", path=LISTS, times=times, skip=skip))
    rng.shuffle(faults)
    return Schedule(
        faults=faults,
        workers=(rng.choice((1, 2, 2)), rng.choice((1, 2, 2))),
        deadly=tuple(rng.sample(range(1, 16), rng.randint(0, 2))),
        kills=tuple(rng.sample(range(1, 240), rng.randint(0, 3))),
    )


class Mortal(FakeTeacher):
    """A teacher that writes down each batch and when it was read; some batches kill who reads."""

    def __init__(self, directory: Path, deadly: Sequence[int]) -> None:
        super().__init__()
        self.directory, self.deadly = directory, deadly

    def load(self) -> None:
        hurry()
        super().load()

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        read = {"when": time.monotonic(), "pid": os.getpid(), "ids": input_ids_BL.tolist()}
        with open(self.directory / "batches", "a") as file:
            file.write(f"{json.dumps(read)}\n")
        number = len((self.directory / "batches").read_text().splitlines())
        for one in self.deadly:
            mark = self.directory / f"killed-{one}"
            if one <= number and not mark.exists():
                is_driver = (self.directory / f"driver-{os.getpid()}").exists()
                mark.write_text("driver" if is_driver else "worker")
                os.kill(os.getpid(), signal.SIGKILL)
        return super().hidden_states(input_ids_BL)


def drive(config: BuildConfig, teacher: Mortal, url: str, address: str | None, server: str) -> None:
    """Build, and tell by the exit code what came of it."""
    hurry()
    use_server(server)
    (teacher.directory / f"driver-{os.getpid()}").touch()
    engine = RayActors(config.workers, address=address) if address else None
    try:
        build(config, teacher, engine=engine, place=place_to_write(url))
    except SoftTargetsError as error:
        # Any other error would blame the store, or the user, for what the network did.
        is_network = type(error) is StoreError and re.search(r"after \d+ attempt", str(error))
        (teacher.directory / f"said-{os.getpid()}").write_text(f"{type(error).__name__}: {error}")
        sys.exit(GAVE_UP if is_network else FAILED)


@dataclass(kw_only=True)
class Outcome:
    """What happened to a build, and what is wrong with what came of it."""

    faults: Counter[str] = field(default_factory=Counter)
    """How often each kind of fault was met."""
    num_drivers: int = 0
    num_gave_up: int = 0
    """Drivers that could not reach the place, and were started again."""
    num_again: int = 0
    """Windows that were read once more."""
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The undisturbed store, in a directory."""

    config: BuildConfig
    files: Mapping[str, bytes | None]
    fingerprint: str
    units: Mapping[tuple[int, ...], int]
    """The unit of each window, by its token ids."""

    @classmethod
    def build(cls, directory: Path) -> Expected:
        """Build it in a directory."""
        sizes = {"unit_tokens": 40, "batch_tokens": 48}
        store = build_store(directory, **sizes)
        units: dict[tuple[int, ...], int] = {}
        for unit in range(len(store.manifest.shards)):
            with store.open_shard(unit) as reader:
                for group in range(len(store.manifest.shards[unit].row_groups)):
                    windows = reader.read_row_group(group)
                    units |= {tuple(one.input_ids_L.tolist()): unit for one in windows}
        return cls(
            config=build_config(directory, **sizes),
            files=contents(store.location),
            fingerprint=store.fingerprint,
            units=units,
        )


def run_schedule(
    schedule: Schedule,
    expected: Expected,
    server_port: int,
    directory: Path,
    address: str | None = None,
) -> Outcome:
    """Build under the faults of a schedule until a driver says that it is done, and check.

    Args:
        schedule: of the faults.
        expected: what has to come of it.
        server_port: of an S3 server that knows conditional writes.
        directory: for what processes write down; it is empty.
        address: of a Ray cluster whose actors run the units; by default processes do.
    """
    outcome = Outcome()
    with run_proxy(server_port) as proxy:
        url = proxy.url(f"{make_bucket(server_port)}/some/store")
        proxy.faults.extend(schedule.faults)
        proxy.clients_die = True
        kills = sorted(schedule.kills, reverse=True)
        teacher = Mortal(directory, schedule.deadly)

        def started(workers: int) -> Any:
            outcome.num_drivers += 1
            config = replace(expected.config, workers=workers)
            return start(drive, config, teacher, url, address, server_address())

        last = _ended([started(one) for one in schedule.workers], proxy, kills, outcome)
        while last and not outcome.problems and outcome.num_drivers < MOST_DRIVERS:
            last = _ended([started(schedule.workers[0])], proxy, kills, outcome)
        if last:
            outcome.problems.append(f"{outcome.num_drivers} drivers did not make the store")
        _note_drivers(directory, outcome)
        for fault in proxy.faults:
            outcome.faults[_name(fault)] += fault.num_done
            fault.times = 0
        outcome.problems += _problems(url, expected, directory, proxy, outcome)
    return outcome


def _ended(drivers: list[Any], proxy: Proxy, kills: list[int], outcome: Outcome) -> int:
    """Wait for drivers, killing some on the way; return 0 if one of them made the store."""
    while any(driver.is_alive() for driver in drivers):
        alive = [driver for driver in drivers if driver.is_alive()]
        if alive and kills and len(proxy.requests) >= kills[-1]:
            kills.pop()
            alive[0].kill()
            outcome.faults["driver killed"] += 1
        time.sleep(0.002)
    codes: list[int] = [driver.exitcode for driver in drivers]
    outcome.num_gave_up += codes.count(GAVE_UP)
    wrong = [code for code in codes if code not in (0, GAVE_UP, -signal.SIGKILL)]
    outcome.problems += [f"a driver ended with exit code {code}" for code in wrong]
    return min(abs(code) for code in codes)


def _name(fault: Fault) -> str:
    return f"{fault.kind} {fault.status}" if fault.kind in ("error", "lost") else fault.kind


def _note_drivers(directory: Path, outcome: Outcome) -> None:
    """Count who was killed by a batch, and tell what drivers said that ended badly."""
    for mark in directory.glob("killed-*"):
        outcome.faults[f"{mark.read_text()} killed"] += 1
    if outcome.problems:
        outcome.problems += [path.read_text() for path in sorted(directory.glob("said-*"))]


def _problems(
    url: str, expected: Expected, directory: Path, proxy: Proxy, outcome: Outcome
) -> Iterator[str]:
    """Find what is wrong with a store whose build is over."""
    batches = [json.loads(line) for line in (directory / "batches").read_text().splitlines()]
    for process_id in {batch["pid"] for batch in batches}:
        wait_until_gone(process_id)
    yield from _unfinished(batches, expected, proxy, outcome)
    place = place_to_write(url)
    clean_store(place)
    if left := clean_store(place):
        yield f"clean left {left}"
    yield from _checked(lambda: _same(by_number(contents(place)), expected.files))
    yield from _checked(lambda: _sound(url, expected.fingerprint))


def _unfinished(
    batches: Sequence[Mapping[str, Any]], expected: Expected, proxy: Proxy, outcome: Outcome
) -> Iterator[str]:
    """Check that all windows were read, and none once its unit was recorded."""
    recorded = {
        int(found[1]): when
        for path, when in proxy.written.items()
        if (found := re.search(r"/records/unit-(\d+)\.json$", path))
    }
    read = Counter[tuple[int, ...]]()
    for batch in batches:
        for ids in batch["ids"]:
            window = tuple(one for one in ids if one)  # No text has the zeros of padding.
            read[window] += 1
            unit = expected.units[window]
            if batch["when"] > recorded[unit]:
                yield f"unit {unit} was read {batch['when'] - recorded[unit]:.3f} s after its end"
    outcome.num_again = sum(read.values()) - len(read)
    if read.keys() != expected.units.keys():
        yield f"{len(read)} windows were read"


def _same(found: Mapping[str, bytes | None], expected: Mapping[str, bytes | None]) -> None:
    names = found.keys() | expected.keys()
    others = sorted(name for name in names if found.get(name) != expected.get(name))
    assert not others, f"{others} are not as in the undisturbed store"


def _sound(url: str, fingerprint: str) -> None:
    store = Store.open(url)
    assert store.fingerprint == fingerprint, "another fingerprint"
    assert verify(store).is_sound, f"damaged: {verify(store).problems}"


def _checked(check: Callable[[], None]) -> Iterator[str]:
    try:
        check()
    except (AssertionError, SoftTargetsError) as error:
        yield f"{type(error).__name__}: {error}"
