"""Every example trains, is stopped, and goes on when it is run again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from softtargets import Store
from softtargets.capture import TeacherConfig, TransformersTeacher, build
from tests.fakes import build_config

EXAMPLES = Path(__file__).parent.parent / "examples"
ENDED = Path(__file__).parent / "ended.py"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(ENDED)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path) -> Store:
    """A store of a teacher that transformers loads, with the tokenizer of that teacher."""
    teacher = TransformersTeacher(TeacherConfig(name=str(tiny_teacher), dtype="float32"))
    return build(build_config(tmp_path_factory.mktemp("built")), teacher).store


def run(command: list[str], stop_after: int | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if stop_after is not None:
        environment["STOP_AFTER"] = str(stop_after)
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "launcher", "last_line"),
    [
        ("plain_torch.py", [], "step 8, loss"),
        ("plain_torch.py", TORCHRUN, "step 8, loss"),
        ("with_accelerate.py", [], "5 steps in this run, loss"),
        ("with_accelerate.py", TORCHRUN, "1 steps in this run, loss"),
        ("hf_trainer.py", [], "; step 8, loss"),
        ("hf_trainer.py", TORCHRUN, "; step 4, loss"),
        ("trl_sft.py", [], "step 14"),
        ("with_lightning.py", [], "step 8, loss"),
    ],
)
def test_an_example_trains_and_goes_on(
    built: Store,
    tmp_path: Path,
    tiny_teacher: Path,
    example: str,
    launcher: list[str],
    last_line: str,
) -> None:
    assert len(built) == 28, "the numbers of steps are of two epochs of 28 windows"
    arguments = [str(built.root), str(tmp_path / "checkpoint")]
    if example == "trl_sft.py":
        arguments.append(str(tiny_teacher))
    command = [*launcher, str(EXAMPLES / example), *arguments]
    stopped = run(command, stop_after=3)
    assert (tmp_path / "checkpoint").exists(), stopped.stderr
    assert last_line not in stopped.stdout
    done = run(command)
    assert done.returncode == 0, done.stderr
    assert last_line in done.stdout, done.stdout


def test_every_example_is_tested() -> None:
    source = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert path.name in source or path.name == "students.py"
