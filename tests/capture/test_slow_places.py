"""Builds in an object store that answers slowly, not at all, or with listings of the past."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from softtargets.capture import build, build_range, commit
from softtargets.errors import StoreError
from softtargets.places import object_client, place_to_write, retries
from softtargets.places.place import Place
from softtargets.store import clean_store, leases
from tests.capture.test_ranges import Marking
from tests.capture.test_shared_places import PERIOD
from tests.fakes import FakeTeacher, build_config, build_store
from tests.object_store import LISTS, Fault, Proxy
from tests.places.conformance import by_number, contents

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "PERIOD_SECONDS", PERIOD)
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes | None]:
    """The files of the same store in a directory."""
    (tmp_path / "directory").mkdir()
    return contents(build_store(tmp_path / "directory").location)


def test_answers_that_trickle_make_the_same_store(
    tmp_path: Path, object_url: str, object_proxy: Proxy, expected: dict[str, bytes | None]
) -> None:
    slow = object_proxy.inject(Fault(kind="slow", times=10**6))
    place = place_to_write(object_url)
    build(build_config(tmp_path), FakeTeacher(), place=place)
    assert slow.num_done > 10
    assert by_number(contents(place)) == expected


def test_a_request_that_hangs_for_longer_than_others_are_tried_is_tried_again(
    tmp_path: Path,
    object_url: str,
    object_proxy: Proxy,
    expected: dict[str, bytes | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each was done when it hung: the record is then found to be the one that was written."""
    monkeypatch.setattr(object_client, "_REQUEST_SECONDS", 1)
    monkeypatch.setattr(retries, "MOST_SECONDS", 0.5)
    hung = [
        object_proxy.inject(Fault(kind="hang", method=method, path=path))
        for method, path in (("PUT", "shards"), ("PUT", "records"), ("GET", "unit-000001.parquet"))
    ]
    place = place_to_write(object_url)
    build(build_config(tmp_path), FakeTeacher(), place=place)
    assert [fault.num_done for fault in hung] == [1, 1, 1]
    assert by_number(contents(place)) == expected


def test_a_place_that_only_hangs_is_given_up(
    tmp_path: Path, object_url: str, object_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_client, "_REQUEST_SECONDS", 1)
    monkeypatch.setattr(retries, "MOST_SECONDS", 0.5)
    hung = object_proxy.inject(Fault(kind="hang", method="PUT", path="plan.json", times=10**6))
    with pytest.raises(StoreError, match="after 3 attempts"):
        build(build_config(tmp_path), FakeTeacher(), place=place_to_write(object_url))
    assert hung.num_done == 3


def build_whole(directory: Path, teacher: FakeTeacher, place: Place) -> None:
    build(build_config(directory), teacher, place=place)


def build_and_commit(directory: Path, teacher: FakeTeacher, place: Place) -> None:
    build_range(build_config(directory), teacher, 0, None, place=place)
    commit(place)


@pytest.mark.parametrize("finish", [build_whole, build_and_commit])
def test_lists_of_the_past_lose_nothing_and_repeat_nothing(
    tmp_path: Path,
    object_url: str,
    object_proxy: Proxy,
    expected: dict[str, bytes | None],
    finish: Callable[[Path, FakeTeacher, Place], None],
) -> None:
    """No list ever tells of a unit that is done, as each was empty when it was first asked for."""
    place, read = place_to_write(object_url), tmp_path / "batches"
    stale = object_proxy.inject(Fault(kind="stale", path=LISTS, times=10**6))
    build_range(build_config(tmp_path), Marking(read), 0, 2, place=place)
    assert place.list("work/records") == place.list("shards") == []
    finish(tmp_path, Marking(read), place)
    batches = read.read_text().splitlines()
    assert len(batches) == len(set(batches))
    stale.times = 0
    clean_store(place)
    assert by_number(contents(place)) == expected


def test_units_that_are_missing_are_told_of_nevertheless(tmp_path: Path, object_url: str) -> None:
    place = place_to_write(object_url)
    build_range(build_config(tmp_path), FakeTeacher(), 1, 3, place=place)
    with pytest.raises(StoreError, match=r"units done; found 2 missing: 0, 3\."):
        commit(place)
