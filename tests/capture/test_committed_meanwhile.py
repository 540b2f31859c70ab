"""A build in an object store whose units another process records and commits meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from softtargets.capture import build
from softtargets.capture.building import BuildResult
from softtargets.engines import Event, Job
from softtargets.engines.in_process import InProcess
from softtargets.store.ledger import Ledger
from softtargets.store.shard_table import ShardEntry
from tests.benchmarks.simulated_place import Clock, SimulatedPlace
from tests.capture.test_ranges import Marking
from tests.fakes import FakeTeacher, build_config


class Forgetful(SimulatedPlace):
    """Its listings of windows are as old as the place: there are none."""

    def list(self, directory: str) -> list[str]:
        return [] if directory == "work/plan" else super().list(directory)


class Late:
    """Begins to run units when another process has built and committed the store."""

    def __init__(self, build_it: Callable[[], object]) -> None:
        self.build_it = build_it

    def run(self, job: Job, take: Callable[[], int | None]) -> Generator[Event]:
        self.build_it()
        yield from InProcess().run(job, take)


@pytest.mark.parametrize("kind", [SimulatedPlace, Forgetful])
def test_what_another_process_has_committed_is_not_read_again(
    tmp_path: Path, kind: type[SimulatedPlace]
) -> None:
    """Claims are gone then. So are the windows, even those that an old listing did not have."""
    config, place = build_config(tmp_path), kind(Clock(), 0)
    late = Marking(tmp_path / "batches")

    def build_it() -> BuildResult:
        return build(config, FakeTeacher(), place=place)

    result = build(config, late, engine=Late(build_it), place=place)
    assert not late.path.exists()
    assert result.num_units > 1
    assert not result.was_complete


def test_nothing_is_claimed_when_another_process_commits_before_records_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, place = build_config(tmp_path), SimulatedPlace(Clock(), 0)
    listed, written = Ledger.recorded, place.put_if_absent
    paths: list[str] = []

    def list_late(ledger: Ledger) -> dict[int, ShardEntry]:
        monkeypatch.setattr(Ledger, "recorded", listed)
        build(config, FakeTeacher(), place=place)
        monkeypatch.setattr(place, "put_if_absent", put_if_absent)
        return listed(ledger)

    def put_if_absent(path: str, content: bytes) -> bool:
        paths.append(path)
        return written(path, content)

    monkeypatch.setattr(Ledger, "recorded", list_late)
    build(config, FakeTeacher(), place=place)
    assert paths == []
