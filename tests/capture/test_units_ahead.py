"""The next unit of a build is asked for, and read, while the teacher reads the last of one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from softtargets.capture import BuildConfig, build, units
from softtargets.capture.identity import describe_build
from softtargets.capture.units import ScoringJob
from softtargets.capture.units_ahead import UnitsAhead
from softtargets.errors import FormatError
from softtargets.places import Directory, Place
from softtargets.store.writer import StoreWriter
from tests.fakes import FakeTeacher, build_config
from tests.store.test_unit_records import Conditional


def test_the_next_is_read_while_the_last_is_at_work() -> None:
    begun = {unit: threading.Event() for unit in range(3)}

    def read(unit: int) -> str:
        begun[unit].set()
        return f"unit {unit}"

    asked: list[int] = []
    threads: list[str] = []

    def units() -> Iterator[int]:
        for unit in range(3):
            asked.append(unit)
            threads.append(threading.current_thread().name)
            yield unit

    with UnitsAhead(units(), read) as ahead:
        found = []
        for unit, content in ahead:
            found.append(content)
            assert asked == list(range(unit + 1))
            if unit == 0:
                ahead.look()
                ahead.look()
                assert begun[1].wait(60)
                assert asked == [0, 1]
    assert found == ["unit 0", "unit 1", "unit 2"]
    own = threading.current_thread().name
    assert threads == [own, "softtargets-read_0", own]


@pytest.mark.parametrize("fails", ["asking", "reading"])
def test_what_cannot_be_had_is_told_when_it_is_due(fails: str) -> None:
    def checked(unit: int, at: str) -> int:
        if unit == 1 and at == fails:
            raise FormatError("unit 1", expected="windows", found="none")
        return unit

    found = []
    asked = (checked(unit, "asking") for unit in range(3))
    with (
        UnitsAhead(asked, lambda unit: checked(unit, "reading")) as ahead,
        pytest.raises(FormatError, match="unit 1"),
    ):
        for unit, _ in ahead:
            ahead.look()
            found.append(unit)
    assert found == [0]


def num_looks(monkeypatch: pytest.MonkeyPatch, config: BuildConfig, place: Place) -> list[int]:
    """Build, and return how often the next unit was asked for, and how many units there are."""
    looks: list[None] = []

    class Watched(UnitsAhead[Any]):
        def look(self) -> None:
            looks.append(None)
            super().look()

    monkeypatch.setattr(units, "UnitsAhead", Watched)
    num_units = build(config, FakeTeacher(), place=place).num_units
    return [len(looks), num_units]


def test_an_object_store_is_asked_ahead_and_a_directory_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build_config(tmp_path)
    looks, num_units = num_looks(monkeypatch, config, Conditional())
    assert looks >= num_units
    looks, _ = num_looks(monkeypatch, config, Directory(tmp_path / "store"))
    assert looks == 0


def test_a_worker_takes_nothing_before_it_is_due(tmp_path: Path) -> None:
    """If it dies, the unit would have failed by it."""
    config, teacher = build_config(tmp_path), FakeTeacher()
    identity = describe_build(config, teacher)
    with StoreWriter.hold(Conditional(), identity) as writer:
        job = ScoringJob(
            teacher=teacher,
            task=config.capture_task,
            writer=writer,
            selection=config.selection,
            batch_tokens=config.batch_tokens,
        )
        assert job.is_alone
        assert not job.for_worker(0).is_alone
