"""Plans made in stages: the same bytes, whatever becomes of the processes that make them."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from softtargets.capture import Corpus, Windowing, build, planning
from softtargets.capture.planning_jobs import MapJob, ReduceJob, WriteJob
from softtargets.engines import Event, Failed, Job, Processes
from softtargets.errors import FormatError, StoreError
from softtargets.places import place_to_write
from tests.capture.conftest import Cut
from tests.capture.plans import files_config, plan_at_once, plan_files, write_files
from tests.capture.test_resume import StopError
from tests.fakes import TEXTS, ByteTokenizer, FakeTeacher, build_config, build_store, shard_bytes
from tests.places.test_toy_place import InMemory
from tests.store.test_unit_records import Conditional

pytestmark = pytest.mark.slow


class Stopping(InMemory):
    """A dictionary whose writer dies before one of its writes."""

    def __init__(self, num_writes: int) -> None:
        super().__init__()
        self.num_writes = num_writes

    def put(self, path: str, content: bytes) -> None:
        if self.num_writes == 0:
            raise StopError
        self.num_writes -= 1
        super().put(path, content)


@pytest.mark.parametrize("kind", ["split", "pack"])
def test_a_plan_that_is_killed_anywhere_is_gone_on_with(
    tmp_path: Path, cut: Cut, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No part is run again that was done."""
    windowing = Windowing(sequence_length=24, kind=kind)
    paths = write_files(tmp_path / "corpus")
    corpus = Corpus(paths=(*paths[:1], *paths[4:]))
    config = build_config(tmp_path, corpus=corpus, windowing=windowing, unit_tokens=300)
    expected = plan_at_once(config, FakeTeacher(), tmp_path / "once")
    cut()
    run: list[tuple[str, int]] = []
    for job in (MapJob, ReduceJob, WriteJob):

        def find(self: Any, part: int, real: Any = job.find) -> dict[str, Any]:
            run.append((self.stage, part))
            return real(self, part)  # type: ignore[no-any-return]

        monkeypatch.setattr(job, "find", find)
    whole = InMemory()
    plan_files(config, FakeTeacher(), whole)
    num_parts, num_writes = len(run), len(whole.files)
    assert num_writes > 60
    # At any write of the last stage, and at some of the others.
    last_stage = next(n for n, path in enumerate(whole.files) if path.startswith("work/plan/"))
    for stop in (*range(0, last_stage, 5), *range(last_stage, num_writes)):
        run.clear()
        place = Stopping(stop)
        with pytest.raises(StopError):
            plan_files(config, FakeTeacher(), place)
        markers = [path for path in place.files if re.search("(mapped|reduced|written)-", path)]
        assert "work/plan.json" not in place.files
        place.num_writes, num_before = -1, len(run)
        assert plan_files(config, FakeTeacher(), place) == expected
        assert place.files == whole.files
        assert len(run) - num_before == num_parts - len(markers)


def test_files_of_other_slices_are_removed(
    tmp_path: Path, cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another release may have cut them."""
    config = files_config(tmp_path)
    expected = plan_at_once(config, FakeTeacher(), tmp_path / "once")
    cut()
    place = Stopping(60)
    with pytest.raises(StopError):
        plan_files(config, FakeTeacher(), place)
    assert "work/slices/mapped-000000.json" in place.files
    place.num_writes = -1
    monkeypatch.setattr(planning, "SLICE_BYTES", 1000)
    assert plan_files(config, FakeTeacher(), place) == expected
    whole = InMemory()
    plan_files(config, FakeTeacher(), whole)
    assert place.files == whole.files


@pytest.mark.parametrize("name", ["pieces-000001-000000.parquet", "mapped-000000.json"])
def test_what_an_earlier_stage_wrote_has_to_be_there(tmp_path: Path, cut: Cut, name: str) -> None:
    config = files_config(tmp_path)
    cut()

    class Losing(InMemory):
        def put(self, path: str, content: bytes) -> None:
            super().put(path, content)
            if "reduced-000003" in path:
                self.delete(f"work/slices/{name}")

    with pytest.raises(FormatError, match=f"{name}: expected what an earlier stage .* no file"):
        plan_files(config, FakeTeacher(), Losing())


def test_who_is_overtaken_while_it_plans_finds_the_store(tmp_path: Path, cut: Cut) -> None:
    """It was thought dead; another planned, built and committed, and removed the slices."""
    config = files_config(tmp_path)
    other = Conditional()
    build(config, FakeTeacher(), place=other)
    cut()

    class Overtaken(Conditional):
        def put(self, path: str, content: bytes) -> None:
            super().put(path, content)
            if "reduced-000003" in path:
                self.files = dict(other.files)

    place = Overtaken()
    assert build(config, FakeTeacher(), place=place).num_units > 3
    assert place.files == other.files


def test_a_part_that_fails_three_times_is_reported(tmp_path: Path, cut: Cut) -> None:
    class Failing:
        num_failures = 0

        def run(self, job: Job, take: Callable[[], int | None]) -> Generator[Event]:
            while (unit := take()) is not None:
                if unit == 2:
                    self.num_failures += 1
                    yield Failed(unit, "its process ended")
                else:
                    yield from job.run([unit])

    config, engine = files_config(tmp_path), Failing()
    cut()
    with pytest.raises(StoreError, match=r"part 2 of stage 'mapped' that failed 3 times: its pro"):
        plan_files(config, FakeTeacher(), config.output, engine)
    assert engine.num_failures == 3
    assert len(list((config.output / "work/slices").glob("mapped-*"))) == 5 + 6 + 2 - 1


class DyingTokenizer(ByteTokenizer):
    """Ends its process once, at a text."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        if TEXTS[0] in texts and not self._mark.exists():
            self._mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_batch(texts)


def test_processes_plan_the_same_and_one_may_die(tmp_path: Path, cut: Cut) -> None:
    config = files_config(tmp_path)
    expected = plan_at_once(config, FakeTeacher(), tmp_path / "once")
    cut()
    teacher, mark = FakeTeacher(), tmp_path / "mark"
    teacher.tokenizer = DyingTokenizer(mark)
    assert plan_files(config, teacher, config.output, Processes(2)) == expected
    assert mark.exists()


def test_an_object_store_is_planned_in(tmp_path: Path, cut: Cut, object_url: str) -> None:
    config = files_config(tmp_path)
    expected = plan_at_once(config, FakeTeacher(), tmp_path / "once")
    cut()
    place = place_to_write(object_url)
    assert plan_files(config, FakeTeacher(), place, Processes(2)) == expected


def test_a_build_of_processes_is_the_same_store(tmp_path: Path, cut: Cut) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "staged").mkdir()
    corpus = Corpus(paths=write_files(tmp_path / "corpus"))
    expected = build_store(tmp_path / "whole", corpus=corpus).root
    cut()
    config = build_config(tmp_path / "staged", corpus=corpus, workers=2)
    build(config, FakeTeacher())
    assert shard_bytes(config.output) == shard_bytes(expected)
    assert (config.output / "manifest.json").read_bytes() == (
        expected / "manifest.json"
    ).read_bytes()
    assert not (config.output / "work").exists()
