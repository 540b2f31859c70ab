"""Builds of the same store that start while another commits."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from softtargets.capture import BuildConfig, build
from softtargets.errors import BusyError
from softtargets.store import verify
from tests.fakes import FakeTeacher, build_config

ROUNDS = 30
_LATECOMERS = 3


def build_once(config: BuildConfig) -> None:
    build(config, FakeTeacher())


def build_from_commit_on(config: BuildConfig, failures: Any) -> None:
    """Build again and again from when the card is written, until the store is found complete."""
    while not (config.output / "README.md").exists():
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
            raise


@pytest.mark.slow
def test_a_build_that_starts_while_another_commits_finds_it_busy_or_complete(
    tmp_path: Path,
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.capture.test_racing"])
    failures = context.SimpleQueue()
    for number in range(ROUNDS):
        directory = tmp_path / str(number)
        directory.mkdir()
        config = build_config(directory, unit_tokens=200)
        late = [
            context.Process(target=build_from_commit_on, args=(config, failures))
            for _ in range(_LATECOMERS)
        ]
        processes = [context.Process(target=build_once, args=(config,)), *late]
        for process in processes[::-1]:
            process.start()
        for process in processes:
            process.join()
        found = []
        while not failures.empty():
            found.append(failures.get())
        assert [process.exitcode for process in processes] == [0] * len(processes), found
        assert verify(config.output).is_sound
        assert not (config.output / "work").exists()
