"""Slices of a store, built by processes that know nothing of each other."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from softtargets.capture import BuildConfig, Progress, build, build_range, commit
from softtargets.errors import BusyError, IdentityError, InputError, StoreError
from softtargets.store import Store, verify
from tests.fakes import FakeTeacher, build_config, build_store, shard_bytes
from tests.processes import CONTEXT, Gate, held


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    (tmp_path / "whole").mkdir()
    return shard_bytes(build_store(tmp_path / "whole").root)


@pytest.mark.slow
def test_ranges_in_any_order_make_the_same_store(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    config = build_config(tmp_path)
    num_units = len(expected)
    assert num_units >= 4
    found = build_range(config, FakeTeacher(), 2, None)
    assert (found.num_units, found.num_done) == (num_units, num_units - 2)
    with pytest.raises(StoreError, match=r"units done; found 2 missing: 0-1\. Run the same"):
        commit(config.output)
    with pytest.raises(StoreError, match=r"found an unfinished build"):
        Store.open(config.output)
    assert build_range(config, FakeTeacher(), 0, 3).num_done == num_units
    store = commit(config.output)
    assert shard_bytes(store.root) == expected
    assert store.fingerprint == Store.open(tmp_path / "whole" / "store").fingerprint
    assert verify(store.root).is_sound
    names = sorted(path.name for path in store.root.iterdir())
    assert names == ["README.md", "manifest.json", "shards", "vocabulary.parquet"]
    # Both are as when they find a complete store.
    assert build_range(config, FakeTeacher(), 0, 1).num_done == num_units
    assert commit(config.output).fingerprint == store.fingerprint


@pytest.mark.slow
def test_a_whole_build_does_what_ranges_left(tmp_path: Path, expected: dict[str, bytes]) -> None:
    config = build_config(tmp_path)
    build_range(config, FakeTeacher(), 1, 3)
    result = build(config, FakeTeacher())
    assert result.num_units_before == 2
    assert shard_bytes(config.output) == expected


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (2, 1), (0, 99), (99, None), (-1, 2)])
def test_units_that_are_not_there_are_an_error(
    tmp_path: Path, start: int, stop: int | None
) -> None:
    with pytest.raises(InputError, match=r"--unit-range: expected A:B with 0 <= A < B <= \d, "):
        build_range(build_config(tmp_path), FakeTeacher(), start, stop)


def test_another_store_in_the_directory_is_refused(tmp_path: Path) -> None:
    config = build_config(tmp_path)
    build_range(config, FakeTeacher(), 0, 1)
    with pytest.raises(IdentityError, match=r"field teacher.weights_sha256"):
        build_range(config, FakeTeacher(seed=1), 1, 2)
    with pytest.raises(StoreError, match=r"in which one is being built; found neither"):
        commit(tmp_path / "nowhere")


def run_range(config: BuildConfig, teacher: FakeTeacher, num_workers: int = 1) -> None:
    build_range(config, teacher, 0, None)


class DyingOnce(FakeTeacher):
    """A teacher whose process is killed at its second batch, the first time."""

    def __init__(self, mark: Path) -> None:
        super().__init__()
        self.mark, self.num_batches = mark, 0

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        self.num_batches += 1
        if self.num_batches == 2 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().hidden_states(input_ids_BL)


class Marking(FakeTeacher):
    """A teacher that writes down every batch it reads, in whatever process."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        with open(self.path, "a") as file:
            file.write(f"{input_ids_BL.flatten().tolist()}\n")
        return super().hidden_states(input_ids_BL)


def start(target: Any, *arguments: Any) -> Any:
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


@pytest.mark.slow
def test_ranges_that_overlap_share_the_units(tmp_path: Path, expected: dict[str, bytes]) -> None:
    """Processes that begin at once with nothing planned; no unit is run twice."""
    config = build_config(tmp_path)
    read = tmp_path / "batches"
    processes = [start(run_range, config, Marking(read)) for _ in range(3)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    batches = read.read_text().splitlines()
    assert len(batches) == len(set(batches))
    assert shard_bytes(commit(config.output).root) == expected


@pytest.mark.slow
def test_a_unit_of_a_process_that_dies_is_taken_by_another(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    config = build_config(tmp_path)
    dying = start(run_range, config, DyingOnce(tmp_path / "mark"))
    dying.join()
    assert dying.exitcode == -signal.SIGKILL
    assert build_range(config, FakeTeacher(), 0, None).num_done == len(expected)
    assert shard_bytes(commit(config.output).root) == expected


def hold_a_unit(config: BuildConfig, gate: Gate) -> None:
    def wait(progress: Progress) -> None:
        if progress.num_tokens:
            gate()

    build_range(config, FakeTeacher(), 0, 1, wait)


@pytest.mark.slow
def test_a_unit_that_another_holds_is_waited_for_and_others_are_done_meanwhile(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    config = build_config(tmp_path)
    with held(hold_a_unit, config) as process:
        with pytest.raises(BusyError, match=rf"by process {process.pid} on "):
            build(config, FakeTeacher())
        with pytest.raises(BusyError, match=rf"by process {process.pid} on "):
            commit(config.output)

        def watch(_: Progress) -> None:
            if len(list((config.output / "work" / "records").iterdir())) == len(expected) - 1:
                process.open_gate()

        assert build_range(config, FakeTeacher(), 0, None, watch).num_done == len(expected)
    assert shard_bytes(commit(config.output).root) == expected


@pytest.mark.slow
def test_a_range_is_run_by_workers_too(tmp_path: Path, expected: dict[str, bytes]) -> None:
    config = build_config(tmp_path, workers=2)
    assert build_range(config, FakeTeacher(), 0, 3).num_done == 3
    assert build_range(config, FakeTeacher(), 2, None).num_done == len(expected)
    assert shard_bytes(commit(config.output).root) == expected
