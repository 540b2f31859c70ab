from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from softtargets.errors import TeacherError
from tests.trial import gemma
from tests.trial.steps import MOST_BYTES, Step, run_step

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_a_first_users_day_goes_well(tmp_path: Path) -> None:
    if len(gemma.parts()) < 4:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("No teacher of 262,144 outputs: make trial")
    done = subprocess.run(
        [sys.executable, "-m", "tests.trial", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("  ok\n") > 12


def test_a_step_that_fails_or_does_not_hold_is_said(tmp_path: Path) -> None:
    def outcome(code: str, problem: str | None = None) -> tuple[str, ...]:
        step = Step(name="one", arguments=["-c", code], claim=lambda _: problem)
        return run_step(step, tmp_path).failed

    assert outcome("print(1)") == ()
    assert outcome("import sys; sys.exit('why')") == ("exit code 1: why",)
    assert outcome("print(1)", "not so")[0].startswith("not so: see ")


def test_the_most_memory_of_a_step_is_known(tmp_path: Path) -> None:
    taken = 300_000_000
    step = Step(name="one", arguments=["-c", f"held = b'1' * {taken}"])
    found = run_step(step, tmp_path).peak_bytes
    assert taken < found < MOST_BYTES


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
