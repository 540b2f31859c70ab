"""Whoever waits says for whom, since when, and how to go on."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from softtargets.capture import build, build_range
from softtargets.errors import BusyError
from softtargets.places import waiting
from softtargets.places.lock import hold_lock
from softtargets.places.tree import Tree
from tests.fakes import FakeTeacher, build_config

HOLD = """
import sys
from pathlib import Path
from softtargets.places.lock import hold_lock
from softtargets.places.tree import Tree
with hold_lock(Tree(Path(sys.argv[1])), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_SECONDS", 0.01)


def hold(root: Path, path: str) -> subprocess.Popen[bytes]:
    """Return a process that holds a lock, and is stopped."""
    command = [sys.executable, "-c", HOLD, str(root), path]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    process.send_signal(signal.SIGSTOP)
    while not waiting.is_stopped(waiting.process_text(process.pid)):
        time.sleep(0.001)
    return process


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    (tmp_path / "store" / "work" / "leases").mkdir(parents=True)
    process = hold(tmp_path / "store", "work/plan.lock")
    yield process
    process.kill()
    process.communicate()


class Release(logging.Handler):
    """Kills the process that a warning tells to kill."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__()
        self.process, self.texts = process, list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self.process.kill()


@pytest.mark.slow
def test_a_plan_is_waited_for_aloud(
    soon: None, tmp_path: Path, stopped: subprocess.Popen[bytes]
) -> None:
    handler = Release(stopped)
    logging.getLogger("softtargets").addHandler(handler)
    try:
        build_range(build_config(tmp_path), FakeTeacher(), 0, None)
    finally:
        logging.getLogger("softtargets").removeHandler(handler)
    told = handler.texts[0]
    assert "waiting since" in told
    assert f"held by process {stopped.pid} on " in told
    assert ", which is stopped. To let it go on, run 'kill -CONT" in told
    assert f"'kill -9 {stopped.pid}'" in told


@pytest.mark.slow
def test_a_unit_is_waited_for_aloud(soon: None, tmp_path: Path) -> None:
    config = build_config(tmp_path)
    build_range(config, FakeTeacher(), 0, 1)
    process = hold(config.output, "work/leases/unit-000001")
    handler = Release(process)
    logging.getLogger("softtargets").addHandler(handler)
    try:
        done = build_range(config, FakeTeacher(), 0, None)
    finally:
        logging.getLogger("softtargets").removeHandler(handler)
        process.kill()
        process.communicate()
    assert done.num_done == done.num_units
    assert f"for unit 1, held by process {process.pid} on " in handler.texts[0]


def test_a_whole_build_is_told_who_is_in_its_way(tmp_path: Path) -> None:
    config = build_config(tmp_path)
    (config.output / "work").mkdir(parents=True)
    process = hold(config.output, "work/lock")
    try:
        with pytest.raises(BusyError, match=rf"process {process.pid} on .* which is stopped.*CONT"):
            build(config, FakeTeacher())
    finally:
        process.kill()
        process.communicate()


def test_it_is_told_ever_more_seldom(monkeypatch: pytest.MonkeyPatch, logged: list[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    told = []
    one = waiting.Waiting("here", "a unit", lambda: "process 1 on elsewhere since then")
    for second in range(2000):
        now[0] = second
        before = len(logged)
        one.tell()
        if len(logged) > before:
            told.append(second)
    assert told == [5, 15, 35, 75, 155, 315, 635, 1235, 1835]
    assert any("run 'kill -9 1' on elsewhere" in one for one in logged)


def test_a_lock_says_since_when_it_is_held(tmp_path: Path) -> None:
    with hold_lock(Tree(tmp_path), "lock"):
        content = (tmp_path / "lock").read_text()
    assert content.startswith(f"process {os.getpid()} on ")
    assert content.endswith(" UTC\n")
