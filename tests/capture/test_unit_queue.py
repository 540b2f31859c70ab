"""What it costs to be given a unit, to find it done, and to wait for it, in an object store."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from softtargets.capture import unit_queue
from softtargets.capture.identity import describe_build
from softtargets.capture.unit_queue import UnitQueue
from softtargets.store import leases
from softtargets.store.shard_table import ShardEntry
from softtargets.store.writer import StoreWriter
from tests.benchmarks.simulated_place import Clock, SimulatedPlace
from tests.fakes import FakeTeacher, build_config
from tests.store.test_unit_records import entry_of

SHARD = b"some bytes"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(leases, "time", clock)
    monkeypatch.setattr(unit_queue, "time", clock)
    return clock


@pytest.fixture
def place(clock: Clock) -> SimulatedPlace:
    return SimulatedPlace(clock, 0)


@pytest.fixture
def identity(tmp_path: Path) -> Mapping[str, Any]:
    return describe_build(build_config(tmp_path), FakeTeacher())


def asked(place: SimulatedPlace) -> dict[str, int]:
    """Return how many requests there were since it was last asked."""
    found = dict(place.requests)
    place.requests.clear()
    return found


def test_a_unit_that_is_claimed_first_costs_one_request(
    place: SimulatedPlace, identity: Mapping[str, Any]
) -> None:
    with StoreWriter.hold(place, identity) as writer:
        queue = UnitQueue(writer, range(2), lambda _: None)
        asked(place)
        assert queue.take() == 0
        assert asked(place) == {"PUT": 1}
        entry = writer.record(entry_of(SHARD), SHARD)
        asked(place)
        queue.finish(entry)
        assert asked(place) == {}
        assert queue.take() == 1
        queue.fail(1, "it failed")
        assert [bool(writer.turns.holder(unit)) for unit in range(2)] == [True, False]


def test_a_unit_that_was_recorded_while_its_process_ended_is_not_given_out(
    place: SimulatedPlace, identity: Mapping[str, Any]
) -> None:
    found: list[ShardEntry] = []
    with StoreWriter.hold(place, identity) as late:
        with StoreWriter.hold(place, identity) as first:
            with closing(UnitQueue(first, range(2), lambda _: None)) as queue:
                assert queue.take() == 0
                assert queue.take() == 1
                first.record(entry_of(SHARD), SHARD)
                asked(place)
            assert asked(place) == {}
        queue = UnitQueue(late, range(2), found.append)
        assert queue.take() == 1
    assert [entry.unit for entry in found] == [0]


def test_a_unit_that_another_has_done_is_not_given_out(
    place: SimulatedPlace, identity: Mapping[str, Any], clock: Clock
) -> None:
    """Whether the other process is at work still, or has ended."""
    found: list[ShardEntry] = []
    with StoreWriter.hold(place, identity) as late:
        with StoreWriter.hold(place, identity) as first:
            queue = UnitQueue(first, range(2), lambda _: None)
            for unit in range(2):
                assert queue.take() == unit
                queue.finish(first.record(entry_of(SHARD, unit), SHARD))
            assert UnitQueue(late, [0], found.append).take() is None
        clock.sleep(leases.PERIOD_SECONDS)
        assert UnitQueue(late, [1], found.append).take() is None
    assert [entry.unit for entry in found] == [0, 1]


def test_whoever_waits_asks_less_and_less(
    place: SimulatedPlace, identity: Mapping[str, Any], clock: Clock
) -> None:
    with (
        StoreWriter.hold(place, identity) as first,
        StoreWriter.hold(place, identity) as late,
    ):
        assert UnitQueue(first, [0], lambda _: None).take() == 0
        queue, times = UnitQueue(late, [0], lambda _: None), []
        assert queue.take() is None
        asked(place)
        for _ in range(6):
            before = clock.now
            queue.wait()
            times.append(clock.now - before)
            if sum(times) < leases.PERIOD_SECONDS:
                assert queue.take() is None
                # The claim, its content, no record and no manifest; nobody asks for a heartbeat.
                assert asked(place) == {"PUT": 1, "GET": 2, "HEAD": 1}
        assert times == [1, 2, 4, 8, 10, 10]
