"""Every engine keeps what all promise, and builds the same store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from softtargets import Store, distillation_loss, verify
from softtargets.capture import build, build_range, commit
from softtargets.engines import Engine, Event, InProcess, Job, Processes
from softtargets.stream import SoftTargetDataset
from tests.engines.conformance import EngineTests
from tests.fakes import FakeTeacher, build_config, build_store, shard_bytes


class Backwards:
    """An engine that the package does not know: it runs the last unit first."""

    def run(self, job: Job, take: Callable[[], int | None]) -> Generator[Event]:
        while units := list(iter(take, None)):
            yield from job.run(reversed(units))


class TestInProcess(EngineTests):
    @pytest.fixture
    def engine(self) -> Engine:
        return InProcess()


class TestBackwards(EngineTests):
    @pytest.fixture
    def engine(self) -> Engine:
        return Backwards()

    def test_nothing_runs_when_it_is_closed(self, engine: Engine, tmp_path: Path) -> None:
        """It takes all units at once, so there has to be an end of them."""


@pytest.mark.slow
class TestProcesses(EngineTests):
    @pytest.fixture(params=[1, 2])
    def engine(self, request: pytest.FixtureRequest) -> Engine:
        return Processes(request.param)


_BESIDE_OTHERS = """
import multiprocessing, sys
from pathlib import Path
from softtargets.engines import Processes
from tests.engines.conformance import ToyJob

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["wave"])
units = [0]
job = ToyJob(Path(sys.argv[1]), modules=("colorsys",))
assert list(Processes(1).run(job, lambda: units.pop() if units else None))
with context.Pool(1) as pool:
    for name in ("wave", "colorsys", "tests.engines.conformance"):
        assert pool.apply(eval, (f"{name!r} in __import__('sys').modules",)), name
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="workers are spawned elsewhere")
def test_what_the_program_has_imported_in_the_server_stays(tmp_path: Path) -> None:
    """There is one server in a process, and its modules are a single list."""
    command = [sys.executable, "-c", _BESIDE_OTHERS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "engine",
    [InProcess(), Backwards(), pytest.param(Processes(1), marks=pytest.mark.slow)],
    ids=["here", "backwards", "processes"],
)
def test_any_engine_builds_the_same_store(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "whole").mkdir()
    whole = build_store(tmp_path / "whole")
    config = build_config(tmp_path)
    store = build(config, FakeTeacher(), engine=engine).store
    assert shard_bytes(store.root) == shard_bytes(whole.root)
    assert store.manifest == whole.manifest
    assert verify(store).is_sound
    batch = next(iter(SoftTargetDataset(store, batch_size=4)))
    assert not isinstance(batch, list)
    logits = batch["input_ids"][..., None].float().expand(-1, -1, 300)
    assert distillation_loss(logits, batch).isfinite()


def test_ranges_are_run_by_any_engine(tmp_path: Path) -> None:
    config = build_config(tmp_path)
    done = build_range(config, FakeTeacher(), 1, None, engine=Backwards())
    assert done.num_done == done.num_units - 1
    build_range(config, FakeTeacher(), 0, 1, engine=Backwards())
    assert verify(commit(config.output)).is_sound
    assert len(Store.open(config.output).manifest.shards) == done.num_units
