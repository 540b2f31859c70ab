"""Every example trains, is stopped, and goes on when it is run again."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from softtargets import Store
from softtargets.capture import TeacherConfig, TransformersTeacher, build
from tests.fakes import build_config
from tests.ranks import run_ranks
from tests.tasks.masked import save_masked_model

EXAMPLES = Path(__file__).parent.parent / "examples"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path) -> Store:
    """A store of a teacher that transformers loads, with the tokenizer of that teacher."""
    teacher = TransformersTeacher(TeacherConfig(name=str(tiny_teacher), dtype="float32"))
    return build(build_config(tmp_path_factory.mktemp("built")), teacher).store


def run_example(example: str, arguments: list[str]) -> None:
    """Run an example as Python does, and fail where its process group outlives it.

    A thread of gloo that drops a tensor while Python shuts down ends the process with an abort. It
    happens in few runs of many; that the thread is there happens in all.
    """
    torch.set_num_threads(1)
    sys.argv = [example, *arguments]
    sys.path.insert(0, str(EXAMPLES))
    names = runpy.run_path(str(EXAMPLES / example), run_name="__main__")  # They live on, as there.
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    left = sorted(thread for thread in threads if "gloo" in thread)
    if left:
        sys.exit(f"{example} ends, its {len(names)} names alive, beside threads: {left}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "num_ranks", "last_line"),
    [
        ("plain_torch.py", 1, "step 8, loss"),
        ("plain_torch.py", 2, "step 8, loss"),
        ("with_accelerate.py", 1, "5 steps in this run, loss"),
        ("with_accelerate.py", 2, "1 steps in this run, loss"),
        ("hf_trainer.py", 1, "; step 8, loss"),
        ("hf_trainer.py", 2, "; step 4, loss"),
        ("trl_sft.py", 1, "step 14"),
        ("with_lightning.py", 1, "step 8, loss"),
    ],
)
def test_an_example_trains_and_goes_on(
    built: Store, tmp_path: Path, tiny_teacher: Path, example: str, num_ranks: int, last_line: str
) -> None:
    assert len(built) == 28, "the numbers of steps are of two epochs of 28 windows"
    arguments = [str(built.root), str(tmp_path / "checkpoint")]
    if example == "trl_sft.py":
        arguments.append(str(tiny_teacher))
    how: dict[str, Any] = {"num_ranks": num_ranks}
    stop = {"STOP_AFTER": "3"}
    _, stopped = run_ranks(
        run_example, example, arguments, log=tmp_path / "stopped", variables=stop, **how
    )
    assert (tmp_path / "checkpoint").exists(), stopped
    assert last_line not in stopped
    code, done = run_ranks(run_example, example, arguments, log=tmp_path / "done", **how)
    assert code == 0, done
    assert last_line in done, done


@pytest.mark.slow
def test_an_example_runs_by_the_command_that_its_page_says(built: Store, tmp_path: Path) -> None:
    example = str(EXAMPLES / "plain_torch.py")
    done = subprocess.run(
        [sys.executable, *TORCHRUN, example, str(built.root), str(tmp_path / "checkpoint")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "step 8, loss" in done.stdout


@pytest.mark.slow
def test_the_example_of_classification_compares_students(tmp_path: Path) -> None:
    save_masked_model(tmp_path / "encoder", "Bert", max_position_embeddings=128)
    for kind, text in (("easy-ham", "the cat walked ."), ("spam", "a dog sat here .")):
        (tmp_path / "mails" / kind).mkdir(parents=True)
        for number in range(12):
            mail = f"Subject: {text}\n\n{text * (number + 1)}\n"
            (tmp_path / "mails" / kind / f"{number}.txt").write_text(mail)
    arguments = [
        word
        for name, value in {
            "encoder": tmp_path / "encoder", "mails": tmp_path / "mails",
            "output": tmp_path / "output", "labelled": 8, "others": 8, "test": 8, "epochs": 1,
            "seeds": 1,
        }.items()
        for word in (f"--{name}", str(value))
    ]  # fmt: skip
    log = tmp_path / "log"
    code, said = run_ranks(run_example, "classification.py", arguments, log=log, num_ranks=1)
    assert code == 0, said
    assert "8 labelled mails, 8 others, 8 for the test" in said
    told = [line.split("accuracy")[0].strip() for line in said.splitlines() if "accuracy" in line]
    assert told == ["teacher", "seed 0, labels alone", "seed 0, distilled"]


def test_every_example_is_tested() -> None:
    source = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert path.name in source or path.name == "students.py"
