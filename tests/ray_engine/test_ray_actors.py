"""The engine of Ray keeps what all engines promise, with jobs that need no teacher."""

from __future__ import annotations

import logging
import os
import signal
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from softtargets.engines import Done, Engine, Event, Failed, Job, RayActors, actor_pool
from softtargets.errors import InputError, StoreError
from softtargets.places import waiting
from tests.engines.conformance import EngineTests, ToyJob
from tests.processes import wait_until_gone

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


class TestRayActors(EngineTests):
    @pytest.fixture(params=[1, 2])
    def engine(self, request: pytest.FixtureRequest) -> Engine:
        return RayActors(request.param)


@dataclass
class PidJob(ToyJob):
    """Writes down which processes run units; some units kill theirs."""

    deadly: tuple[int, ...] = ()
    deadly_when_done: int = -1
    is_broken: bool = False

    def run(self, units: Iterable[int]) -> Generator[Event]:
        (self.directory / f"pid-{os.getpid()}").touch()
        if self.is_broken:
            raise ZeroDivisionError("nothing is left")
        for event in super().run(self._survived(units)):
            if isinstance(event, Done) and event.entry.unit == self.deadly_when_done:
                os.kill(os.getpid(), signal.SIGKILL)
            yield event

    def _survived(self, units: Iterable[int]) -> Iterable[int]:
        for unit in units:
            if unit in self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            yield unit


def pids(directory: Path) -> set[int]:
    return {int(path.name.removeprefix("pid-")) for path in directory.glob("pid-*")}


def run_all(engine: Engine, job: Job, num_units: int) -> tuple[list[int], Counter[int]]:
    """Run units, each at most three times; return what is done, and how often each failed."""
    units, done, failed = list(range(num_units)), [], Counter[int]()
    for event in engine.run(job, lambda: units.pop(0) if units else None):
        if isinstance(event, Done):
            done.append(event.entry.unit)
        elif isinstance(event, Failed):
            failed[event.unit] += 1
            if failed[event.unit] < 3:
                units.append(event.unit)
    return done, failed


@pytest.mark.parametrize("num_workers", [1, 2])
def test_units_beside_a_deadly_one_are_done(tmp_path: Path, num_workers: int) -> None:
    """None is blamed for it more than once, though an actor has two units at a time."""
    done, failed = run_all(RayActors(num_workers), PidJob(tmp_path, deadly=(2, 5)), 8)
    assert sorted(done) == [0, 1, 3, 4, 6, 7]
    assert failed.pop(2) == failed.pop(5) == 3
    assert set(failed.values()) <= {1}
    for pid in pids(tmp_path):
        wait_until_gone(pid)


def test_a_unit_that_was_recorded_is_not_run_again(tmp_path: Path) -> None:
    """Its actor died before it could tell. A unit that is done cannot be run again in this job."""
    done, failed = run_all(RayActors(1), PidJob(tmp_path, deadly_when_done=1), 4)
    assert sorted(done) == [0, 1, 2, 3]
    assert failed[1] == 0


def test_no_process_is_left_when_it_is_closed(tmp_path: Path) -> None:
    units = list(range(1000))
    with closing(RayActors(2).run(PidJob(tmp_path), lambda: units.pop(0))) as events:
        next(events)
    assert pids(tmp_path)
    for pid in pids(tmp_path):
        wait_until_gone(pid)
    num_files = len(list(tmp_path.iterdir()))
    assert num_files < 1000
    assert len(list(tmp_path.iterdir())) == num_files


def test_what_nobody_expected_ends_it_with_what_was_raised(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="load the teacher; found ZeroDivisionError: nothing is"):
        run_all(RayActors(1), PidJob(tmp_path, is_broken=True), 3)


def test_actors_that_there_is_no_room_for_are_not_waited_for(tmp_path: Path) -> None:
    """The cluster has room for four."""
    done, _ = run_all(RayActors(7), ToyJob(tmp_path), 12)
    assert sorted(done) == list(range(12))


class Interrupting(logging.Handler):
    """Interrupts the program at the first warning."""

    def emit(self, record: logging.LogRecord) -> None:
        raise KeyboardInterrupt(record.getMessage())


def test_that_there_is_no_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster has no GPU."""
    monkeypatch.setattr(actor_pool, "PERIOD_SECONDS", 0.1)
    monkeypatch.setattr(waiting, "FIRST_SECONDS", 0.0)
    handler = Interrupting(logging.WARNING)
    logging.getLogger("softtargets").addHandler(handler)
    try:
        with pytest.raises(KeyboardInterrupt, match="for room for 1 actor in the cluster of Ray"):
            run_all(RayActors(1, gpus_per_worker=1), ToyJob(tmp_path), 3)
    finally:
        logging.getLogger("softtargets").removeHandler(handler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": 0}, "--workers: expected a positive number; found 0"),
        ({"num_workers": 1, "gpus_per_worker": -1}, "--gpus-per-worker: expected a number of 0"),
        ({"num_workers": 1, "gpus_per_worker": float("nan")}, "found nan"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RayActors(**options)
