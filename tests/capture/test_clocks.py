"""Machines whose clocks are wrong, or are set while they build, share the units of a store."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from softtargets.capture import BuildConfig, Progress, build, unit_queue
from softtargets.places import place_to_write
from softtargets.store import leases
from tests.capture.test_ranges import DyingOnce, Marking, start
from tests.capture.test_shared_places import PERIOD
from tests.fakes import FakeTeacher, build_config, build_store
from tests.object_store import Proxy
from tests.places.conformance import by_number, contents
from tests.processes import Gate, held

pytestmark = pytest.mark.slow
HOUR = 3600.0
LOOKS = 2
LONG_PERIOD = 3.0
"""Seconds. A process that a busy machine gives nothing for three of them counts as dead."""
MOST_SECONDS = 120
"""That a build may take which would otherwise wait for ever."""


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes | None]:
    """The files of the same store in a directory."""
    (tmp_path / "directory").mkdir()
    return contents(build_store(tmp_path / "directory").location)


def drive_by_clock(
    config: BuildConfig, teacher: FakeTeacher, url: str, step: float, period: float = PERIOD
) -> None:
    """Build where the clock is set by some seconds whenever somebody looks at it."""
    real, steps = time.time, count(0.0, step)

    def wrong() -> float:
        return real() + next(steps)

    time.time = wrong
    time.time_ns = lambda: int(wrong() * 1e9)
    leases.PERIOD_SECONDS = period
    unit_queue._MOST_PAUSE = 1.0
    build(config, teacher, place=place_to_write(url))


def drive_through_gate(
    config: BuildConfig, teacher: FakeTeacher, url: str, period: float, gate: Gate
) -> None:
    def wait(progress: Progress) -> None:
        if progress.num_tokens:
            gate()

    leases.PERIOD_SECONDS = period
    build(config, teacher, wait, place=place_to_write(url))


def ended(processes: list[Any]) -> Iterator[int | None]:
    for process in processes:
        process.join(MOST_SECONDS)
        process.kill()
        process.join()
        yield process.exitcode


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_who_takes_its_time_does_not_count_as_dead_for_a_clock(
    tmp_path: Path,
    object_url: str,
    object_proxy: Proxy,
    expected: dict[str, bytes | None],
    step: float,
) -> None:
    """The process with the wrong clock looks at the other once more, a period later."""
    config, read = build_config(tmp_path), tmp_path / "batches"
    with held(drive_through_gate, config, Marking(read), object_url, LONG_PERIOD):
        late = start(drive_by_clock, config, Marking(read), object_url, step, LONG_PERIOD)
        while num_looks(object_proxy) < LOOKS and late.is_alive():
            time.sleep(0.01)
    assert list(ended([late])) == [0]
    batches = read.read_text().splitlines()
    assert len(batches) == len(set(batches))
    assert by_number(contents(place_to_write(object_url))) == expected


def num_looks(proxy: Proxy) -> int:
    return sum(method == "GET" and "/workers/" in path for method, path, _ in proxy.requests)


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_dead_process_counts_as_dead_whatever_the_clock_says(
    tmp_path: Path, object_url: str, expected: dict[str, bytes | None], step: float
) -> None:
    config = build_config(tmp_path)
    dying = start(drive_by_clock, config, DyingOnce(tmp_path / "mark"), object_url, 0.0)
    assert list(ended([dying])) == [-signal.SIGKILL]
    late = start(drive_by_clock, config, FakeTeacher(), object_url, step)
    assert list(ended([late])) == [0]
    assert by_number(contents(place_to_write(object_url))) == expected
