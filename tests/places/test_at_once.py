"""Several requests are under way at a time in a place that is far away, and only there."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from softtargets.capture import build
from softtargets.places.at_once import answers
from tests.fakes import FakeTeacher, build_config
from tests.places.test_toy_place import InMemory
from tests.store.test_unit_records import Conditional

RECORD = "work/records/unit"


class Far(InMemory):
    requests_at_once = 3


def test_so_many_are_asked_about_as_the_place_says_and_answered_in_order() -> None:
    taken: list[int] = []
    meeting = threading.Barrier(3)

    def items() -> Iterator[int]:
        for item in range(9):
            taken.append(item)
            yield item

    def ask(item: int) -> int:
        meeting.wait(60)
        return item * item

    found = []
    for number, answer in enumerate(answers(Far(), ask, items())):
        assert len(taken) <= number + 4
        found.append(answer)
    assert found == [item * item for item in range(9)]


def test_a_near_place_is_asked_in_the_thread_of_the_caller() -> None:
    threads = set(answers(InMemory(), lambda _: threading.get_ident(), range(3)))
    assert threads == {threading.get_ident()}


def test_an_error_is_raised_when_those_before_it_are_answered() -> None:
    asked: list[int] = []

    def ask(item: int) -> int:
        asked.append(item)
        if item == 2:
            raise ValueError("two")
        return item

    found = []
    with pytest.raises(ValueError, match="two"):
        for answer in answers(Far(), ask, range(100)):
            found.append(answer)
    assert found == [0, 1]
    assert len(asked) < 10


class Meeting(Conditional):
    """Takes the first two units that are planned together, and gives two records together."""

    requests_at_once = 2

    def __init__(self) -> None:
        super().__init__()
        self._meetings = {path: threading.Barrier(2) for path in ("work/plan/unit", RECORD)}
        self._met = Counter[str]()

    def put(self, path: str, content: bytes) -> None:
        self._meet(path)
        super().put(path, content)

    def get(self, path: str, sha256: str | None = None) -> bytes | None:
        if path.startswith(RECORD):
            self._meet(path)
        return super().get(path, sha256)

    def _meet(self, path: str) -> None:
        for start, meeting in self._meetings.items():
            self._met[start] += path.startswith(start)
            if path.startswith(start) and self._met[start] <= 2:
                meeting.wait(60)


def test_units_are_planned_and_their_records_read_several_at_a_time(tmp_path: Path) -> None:
    config = build_config(tmp_path)
    result = build(config, FakeTeacher(), place=Meeting())
    there = build(config, FakeTeacher(), place=Conditional())
    assert result.store.manifest == there.store.manifest
