from __future__ import annotations

import json
import operator
import os
import signal
import sys
from pathlib import Path

import pytest

from softtargets.errors import TeacherError
from tests.processes import Program
from tests.trial import gemma
from tests.trial.__main__ import main
from tests.trial.steps import MOST_BYTES, Step, run_step


@pytest.mark.slow
def test_a_first_users_day_goes_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if len(gemma.parts()) < 4:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("No teacher of 262,144 outputs: make trial")
    with pytest.raises(SystemExit) as end:
        main(tmp_path)
    printed = capsys.readouterr().out
    assert end.value.code == 0, printed
    assert printed.count("  ok\n") > 12


@pytest.mark.slow
def test_a_step_that_fails_or_does_not_hold_is_said(tmp_path: Path) -> None:
    def outcome(program: Program, argument: object, problem: str | None = None) -> tuple[str, ...]:
        step = Step(name="one", program=program, arguments=[argument], claim=lambda _: problem)
        return run_step(step, tmp_path).failed

    assert outcome(print, 1) == ()
    assert outcome(sys.exit, "why") == ("exit code 1: why",)
    [raised] = outcome(json.loads, "{")
    assert raised.startswith("exit code 1: ")
    assert "JSONDecodeError" in raised
    assert outcome(signal.raise_signal, signal.SIGKILL) == ("exit code -9: ",)
    assert outcome(print, 1, "not so")[0].startswith("not so: see ")


@pytest.mark.slow
def test_the_most_memory_of_a_step_is_known(tmp_path: Path) -> None:
    def peak(num_bytes: int) -> int:
        step = Step(name="one", program=operator.mul, arguments=[b"1", num_bytes])
        return run_step(step, tmp_path).peak_bytes

    taken = 300_000_000
    assert taken < peak(taken) - peak(0) + 10_000_000 < peak(taken) < MOST_BYTES


@pytest.mark.slow
def test_a_teacher_in_other_parts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    part = tmp_path / "model.gguf.part00"
    part.write_bytes(b"another model")
    monkeypatch.setattr(gemma, "parts", lambda: [part])
    with pytest.raises(TeacherError, match=r"found 1 parts with .* Run: make trial"):
        gemma.gemma_directory()
    assert not (tmp_path / "softtargets" / gemma.NAME).exists()
