"""Leases: who is alive, who has a unit, and when another may take it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from threading import Event

import pytest

from softtargets.errors import BusyError, StoreError
from softtargets.store import leases
from softtargets.store.leases import Claim, Leases
from tests.places.conformance import at_once
from tests.store.clocks import Clock
from tests.store.test_unit_records import Conditional

UNIT = "work/leases/unit-000000"


@pytest.fixture
def place() -> Conditional:
    return Conditional()


@pytest.fixture
def stopped(place: Conditional) -> Iterator[Leases]:
    """A process whose heartbeat is there and does not change, which has a unit."""
    other = Leases(place)
    with ExitStack() as stack:
        stack.enter_context(other.beating())
        stack.enter_context(other.hold(UNIT))
        yield other


def has(own: Leases) -> bool:
    try:
        with own.hold(UNIT):
            return True
    except BusyError:
        return False


def test_a_unit_is_had_by_one_and_given_back(place: Conditional, clock: Clock) -> None:
    first, second = Leases(place), Leases(place)
    with first.beating(), second.beating():
        with first.hold(UNIT):
            assert second.holder(UNIT).startswith("process ")
            for _ in range(2):
                with pytest.raises(BusyError, match="found process "), second.hold(UNIT):
                    pass
        assert second.holder(UNIT) == ""
        assert has(second)
        assert place.list("work/workers")
    assert list(place.files) == [UNIT]


def test_giving_back_again_leaves_the_claim_of_who_came_between(
    place: Conditional, clock: Clock
) -> None:
    """An attempt whose answer was lost is made again."""
    first, second = Leases(place), Leases(place)
    with first.beating(), second.beating():
        assert first.claim(UNIT) == leases.Claim(is_first=True)
        first.give_back(UNIT)
        assert second.claim(UNIT) == leases.Claim(is_first=False)
        first.give_back(UNIT)
        assert first.claim(UNIT) is None


def test_a_unit_is_taken_after_three_periods_without_a_heartbeat(
    stopped: Leases, place: Conditional, clock: Clock
) -> None:
    own = Leases(place)
    for seconds in (0, 29):
        clock.now += seconds
        assert not has(own)
    clock.now += 1
    assert has(own)


def test_an_observer_that_slept_begins_to_watch_when_it_sees_another_heartbeat(
    stopped: Leases, place: Conditional, clock: Clock
) -> None:
    own = Leases(place)
    for number in (1, 2, 3):
        assert not has(own)
        clock.now += 3600
        stopped._beat(f"work/workers/{stopped._worker}", number)
    assert not has(own)
    # What has watched for long is of no use to another observer.
    clock.now += 30
    assert not has(Leases(place))
    assert has(own)


def test_clocks_of_others_are_of_no_matter(
    stopped: Leases, place: Conditional, clock: Clock
) -> None:
    """A heartbeat tells its time to people alone."""
    own = Leases(place)
    assert not has(own)
    place.put(f"work/workers/{stopped._worker}", b"process 1 on x since 1970-01-01 00:00:00 UTC\n")
    clock.now += 30
    assert not has(own)


def test_what_a_process_leaves_that_ended_is_taken_at_once(
    place: Conditional, clock: Clock
) -> None:
    other = Leases(place)
    assert other.claim(UNIT) == Claim(is_first=True)
    assert has(Leases(place))


def test_of_many_that_take_over_one_succeeds(
    stopped: Leases, place: Conditional, clock: Clock
) -> None:
    many = [Leases(place) for _ in range(8)]
    with ExitStack() as stack:
        for one in many:
            stack.enter_context(one.beating())
            assert one.claim(UNIT) is None
        clock.now += 30
        claims = at_once(lambda number: many[number].claim(UNIT))
    assert [one for one in claims if one is not None] == [Claim(is_first=False)]


def test_the_dead_are_told_from_those_alive(
    stopped: Leases, place: Conditional, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive, own = Leases(place), Leases(place)
    beat = f"work/workers/{alive._worker}"

    def sleep(seconds: float) -> None:
        clock.now += seconds
        place.put(beat, str(clock.now).encode())

    with alive.beating(), own.beating():
        monkeypatch.setattr(clock, "sleep", sleep)
        assert own.dead() == [stopped._worker]
    assert clock.now == 1030


def test_one_plans_and_the_others_go_on_when_there_is_a_plan(
    stopped: Leases, place: Conditional, clock: Clock
) -> None:
    own = Leases(place)
    with own.awaited(UNIT, "a unit", lambda: clock.now >= 1010):
        assert place.size(UNIT) is not None
        assert clock.now == 1010
    with own.awaited(UNIT, "a unit", lambda: False):
        assert clock.now == 1030
    assert own.holder(UNIT) == ""


def test_a_heartbeat_that_cannot_be_written_is_told_of(
    place: Conditional, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    """The process goes on; whoever takes its unit meanwhile records it first, or second."""
    monkeypatch.setattr(leases, "PERIOD_SECONDS", 0.001)
    real, has_failed = place.put, Event()
    is_away = True

    def put(path: str, content: bytes) -> None:
        if is_away and b"heartbeat 0" not in content:
            has_failed.set()
            raise StoreError("memory", failed="cannot be written", found="away", next_step="Wait.")
        real(path, content)

    monkeypatch.setattr(place, "put", put)
    own = Leases(place)
    with own.beating():
        assert has_failed.wait(10)
        before = place.get(f"work/workers/{own._worker}")
        is_away = False
        while place.get(f"work/workers/{own._worker}") == before:
            pass
    assert any("away. Wait. So others may take what this process has." in one for one in logged)


def test_a_claim_that_is_something_else_is_an_error(place: Conditional) -> None:
    place.put(UNIT, b'{"worker": 3}')
    with pytest.raises(StoreError, match=r"unit-000000: expected a claim of softtargets"):
        has(Leases(place))
