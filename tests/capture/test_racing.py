"""Builds of the same store that start while another commits."""

from __future__ import annotations

import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from softtargets.capture import BuildConfig, build
from softtargets.errors import BusyError
from softtargets.store import Store, verify
from softtargets.store.work_files import UNITS
from tests.capture.test_resume import StopError, stop_after
from tests.fakes import FakeTeacher, build_config
from tests.processes import CONTEXT
from tests.store.test_unit_records import Conditional

ROUNDS = 30
_LATECOMERS = 3


def build_all(configs: list[BuildConfig], round_begins: Barrier) -> None:
    try:
        for config in configs:
            round_begins.wait()
            build(config, FakeTeacher())
    except BaseException:
        round_begins.abort()
        raise


def build_all_from_commit_on(
    configs: list[BuildConfig], round_begins: Barrier, failures: Any
) -> None:
    """Build again and again from when the card is written, until the store is found complete."""
    for config in configs:
        round_begins.wait()
        while not (config.output / "README.md").exists() and not round_begins.broken:
            time.sleep(0.0001)
        is_done = False
        while not is_done:
            try:
                build(config, FakeTeacher())
                is_done = True
            except BusyError:
                pass
            except BaseException as error:
                failures.put(f"{type(error).__name__}: {error}")
                round_begins.abort()
                raise


@pytest.mark.slow
def test_a_build_that_reads_the_plan_while_another_commits_finds_it_complete(
    tmp_path: Path,
) -> None:
    """The other one removes the units of the plan just before they are read."""
    whole, place, config = Conditional(), Conditional(), build_config(tmp_path)
    build(config, FakeTeacher(), place=whole)
    with pytest.raises(StopError):
        build(config, FakeTeacher(), stop_after(8), place=place)
    get, num_read = place.get, 0

    def get_late(path: str, sha256: str | None = None) -> bytes | None:
        nonlocal num_read
        if path == UNITS:
            num_read += 1
            place.files = dict(whole.files)
        return get(path, sha256)

    place.get = get_late  # type: ignore[method-assign]
    result = build(config, FakeTeacher(), place=place)
    assert num_read == 1
    assert len(result.store) == len(Store.open(whole))


@pytest.mark.slow
def test_a_build_that_starts_while_another_commits_finds_it_busy_or_complete(
    tmp_path: Path,
) -> None:
    configs = []
    for number in range(ROUNDS):
        directory = tmp_path / str(number)
        directory.mkdir()
        configs.append(build_config(directory, unit_tokens=200))
    failures, round_begins = CONTEXT.SimpleQueue(), CONTEXT.Barrier(1 + _LATECOMERS)
    late = [
        CONTEXT.Process(target=build_all_from_commit_on, args=(configs, round_begins, failures))
        for _ in range(_LATECOMERS)
    ]
    processes = [*late, CONTEXT.Process(target=build_all, args=(configs, round_begins))]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = []
    while not failures.empty():
        found.append(failures.get())
    assert [process.exitcode for process in processes] == [0] * len(processes), found
    for config in configs:
        assert verify(config.output).is_sound
        assert not (config.output / "work").exists()
