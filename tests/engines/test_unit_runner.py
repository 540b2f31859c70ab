"""A process that is asked for units one by one: each call is told what became of its own."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Signal

import pytest

from softtargets.engines import Done, Event, Failed
from softtargets.engines.unit_runner import UnitRunner
from softtargets.errors import StoreError
from softtargets.places.place import LockGoneError
from tests.engines.conformance import ToyJob, entry_of


@dataclass
class LateJob(ToyJob):
    """Tells that a unit is done when it has asked for the next, as a job does that writes it."""

    def run(self, units: Iterable[int]) -> Generator[Event]:
        last: int | None = None
        for unit in units:
            if last is not None:
                yield Done(entry_of(last))
            last = unit
        if last is not None:
            yield Done(entry_of(last))


class Unwritten(ToyJob):
    """Its directory is not seen here."""

    def working(self) -> AbstractContextManager[object]:
        raise LockGoneError("work/workers.lock")


class Broken(ToyJob):
    def run(self, units: Iterable[int]) -> Generator[Event]:
        raise ZeroDivisionError("nothing is left")


def runner_of(job: ToyJob) -> UnitRunner:
    return UnitRunner(lambda: job, 0, str(Path.cwd()))


def test_each_call_is_told_of_its_own_unit(tmp_path: Path) -> None:
    runner = runner_of(ToyJob(tmp_path))
    assert runner.load() is None
    with ThreadPoolExecutor(2) as calls:
        assert list(calls.map(runner.run, range(7))) == [Done(entry_of(unit)) for unit in range(7)]
    assert f"process {os.getpid()} on " in runner.name()


def test_the_last_unit_is_done_without_another(tmp_path: Path) -> None:
    runner = runner_of(LateJob(tmp_path))
    assert runner.run(3) == Done(entry_of(3))
    assert runner.run(4) == Done(entry_of(4))


def test_what_was_asked_for_beside_a_unit_that_fails_is_left(tmp_path: Path) -> None:
    """Whatever the order: nothing runs in a process in which a unit failed."""
    begin = Signal()

    @dataclass
    class Waiting(ToyJob):
        def run(self, units: Iterable[int]) -> Generator[Event]:
            begin.wait()
            yield from super().run(units)

    runner = runner_of(Waiting(tmp_path, num_failures={1: 1}))
    with ThreadPoolExecutor(2) as calls:
        first = calls.submit(runner.run, 1)
        while runner._asked.empty():
            pass
        second = calls.submit(runner.run, 2)
        begin.set()
        assert first.result() == Failed(1, "unit 1 is hard")
        assert second.result() is None
    assert runner.run(3) is None
    assert not (tmp_path / "2-done").exists()


def test_an_error_of_the_place_is_told_to_everybody(tmp_path: Path) -> None:
    runner = runner_of(ToyJob(tmp_path, disk_full_at=1))
    assert runner.run(0) == Done(entry_of(0))
    for unit in (1, 2):
        error = runner.run(unit)
        assert isinstance(error, StoreError)
        assert "cannot be written: full" in str(error)


def test_a_directory_that_is_not_seen_is_told_of(tmp_path: Path) -> None:
    error = runner_of(Unwritten(tmp_path)).load()
    assert isinstance(error, StoreError)
    assert "toy: expected a directory that every worker sees; found one that is not" in str(error)


def test_what_nobody_expected_is_raised(tmp_path: Path) -> None:
    runner = runner_of(Broken(tmp_path))
    with pytest.raises(ZeroDivisionError):
        runner.load()
    with pytest.raises(ZeroDivisionError):
        runner.run(0)
