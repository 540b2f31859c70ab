"""What every engine promises. A class of tests for each engine inherits what is here."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from softtargets.engines import Done, Engine, Event, Failed, Scored
from softtargets.errors import StoreError
from softtargets.store.shard_table import ShardEntry
from tests.processes import none_left


def entry_of(unit: int) -> ShardEntry:
    return ShardEntry(
        unit=unit, path=f"shards/{unit}", num_bytes=unit, sha256="", footer_bytes=0,
        footer_xxh3="", row_groups=(), run={},
    )  # fmt: skip


@dataclass
class ToyJob:
    """Makes a file for each unit; some units fail at first, one ends everything."""

    directory: Path
    num_failures: dict[int, int] = field(default_factory=dict)
    disk_full_at: int = -1
    where: str = "toy"
    modules: Sequence[str] = ()

    def for_worker(self, worker: int) -> ToyJob:
        return self

    def working(self) -> AbstractContextManager[object]:
        return nullcontext()

    def run(self, units: Iterable[int]) -> Generator[Event]:
        for unit in units:
            if unit == self.disk_full_at:
                raise StoreError("toy", failed="cannot be written", found="full", next_step="Wait.")
            yield Scored(unit, 1, 10)
            tried = len(list(self.directory.glob(f"{unit}-failed-*")))
            if tried < self.num_failures.get(unit, 0):
                (self.directory / f"{unit}-failed-{tried}").touch()
                yield Failed(unit, f"unit {unit} is hard")
                continue
            (self.directory / f"{unit}-done").touch(exist_ok=False)
            yield Done(entry_of(unit))

    def recorded(self, unit: int) -> ShardEntry | None:
        return entry_of(unit) if (self.directory / f"{unit}-done").exists() else None


class EngineTests:
    """What an engine does with any job."""

    @pytest.fixture
    def engine(self) -> Engine:
        raise NotImplementedError

    def test_every_unit_is_run_once(self, engine: Engine, tmp_path: Path) -> None:
        units = list(range(7))
        events = list(engine.run(ToyJob(tmp_path), lambda: units.pop(0) if units else None))
        done = [event.entry for event in events if isinstance(event, Done)]
        assert sorted(done, key=lambda entry: entry.unit) == [entry_of(unit) for unit in range(7)]
        assert not [event for event in events if isinstance(event, Failed)]
        assert len(list(tmp_path.iterdir())) == 7

    def test_a_unit_that_failed_is_run_again_if_it_is_taken_again(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        units, failed, done = [0, 1, 2, 3], [], []
        job = ToyJob(tmp_path, num_failures={1: 2, 3: 1})
        for event in engine.run(job, lambda: units.pop(0) if units else None):
            if isinstance(event, Failed):
                assert event.error == f"unit {event.unit} is hard"
                failed.append(event.unit)
                units.append(event.unit)
            elif isinstance(event, Done):
                done.append(event.entry.unit)
        assert sorted(failed) == [1, 1, 3]
        assert sorted(done) == [0, 1, 2, 3]

    def test_nothing_is_begun_where_nothing_is_to_do(self, engine: Engine, tmp_path: Path) -> None:
        assert list(engine.run(ToyJob(tmp_path), lambda: None)) == []
        assert list(tmp_path.iterdir()) == []

    def test_what_is_wrong_with_the_place_ends_it(self, engine: Engine, tmp_path: Path) -> None:
        units = list(range(7))
        job = ToyJob(tmp_path, disk_full_at=4)
        with pytest.raises(StoreError, match="toy: cannot be written: full"):
            list(engine.run(job, lambda: units.pop(0) if units else None))
        assert not (tmp_path / "4-done").exists()

    def test_nothing_runs_when_it_is_closed(self, engine: Engine, tmp_path: Path) -> None:
        units = list(range(1000))
        with none_left(), closing(engine.run(ToyJob(tmp_path), lambda: units.pop(0))) as events:
            assert isinstance(next(events), (Scored, Done))
        assert len(list(tmp_path.iterdir())) < 1000
