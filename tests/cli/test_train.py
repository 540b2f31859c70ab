"""`softtargets train` by its command line; what it does is tested in tests/runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from softtargets.cli.progress_display import training_text
from softtargets.runs import TrainProgress
from softtargets.store import Store
from tests.commands import run
from tests.ranks import run_ranks
from tests.runs.conftest import llama, plots, taught

__all__ = ["llama", "plots", "taught"]


@pytest.fixture
def arguments(taught: Store, llama: Path, tmp_path: Path) -> list[str | Path]:
    return [
        "train", taught.root, "--student", "teacher[depth=2]", "--teacher", llama, "--output",
        tmp_path / "run", "--eval-share", "0.2", "--steps", "4",
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def _own_random_numbers() -> Any:
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.slow
def test_a_dry_run_says_what_it_resolved_and_writes_nothing(
    arguments: list[str | Path], tmp_path: Path
) -> None:
    result = run(*arguments, "--dry-run", "--global-batch-size", "6", "--ce-weight", "0.1")
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    for part in (
        "layers 0, 3 of the teacher: ", "% of the teacher's parameters",
        "soft-targets: temperature 1, forward_kl, weight 0.1 of the labels", "4, 1 epochs",
        "6 windows per step: 6 at a time, 1 times, on 1 process",
        "0.0005, linear, after 1 step of warm-up", "Nothing was trained or written.",
    ):  # fmt: skip
        assert part in said, part
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_file_has_the_options_and_the_command_line_goes_before(
    arguments: list[str | Path], taught: Store, llama: Path, tmp_path: Path
) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(
        f"student: teacher[depth=3]\nteacher: {llama}\noutput: {tmp_path / 'run'}\n"
        "eval-share: 0.2\nsteps: 4\nbatch_size: 2\nlr: 1e-3\nset:\n  weight_decay: 0.25\n"
    )
    result = run("train", taught.root, "--config", config, "--steps", "2")
    assert result.exit_code == 0, result.output
    assert "after training" in " ".join(result.output.split())
    assert f'AutoModelForCausalLM.from_pretrained("{tmp_path / "run"}")' in result.output
    decides = json.loads((tmp_path / "run" / "train.json").read_text())["decides"]
    assert decides["steps"] == 2
    assert decides["global_batch_size"] == 2
    assert decides["learning_rate"] == 1e-3
    assert decides["student"]["layers"] == [0, 2, 3]
    assert decides["set"] == {"weight_decay": 0.25}
    again = run("train", taught.root, "--config", config, "--steps", "2")
    assert "complete already: nothing to do" in again.output
    other = run("train", taught.root, "--config", config)
    assert other.exit_code == 1
    assert "steps: expected 4, as it is asked for; found 2" in " ".join(other.stderr.split())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stepps: 3\n", "a known name, such as steps, save_steps, eval_steps; found stepps"),
        ("- steps\n", "YAML with a line 'name: value' for each option; found list"),
        ("steps: *anchor\n", "an alias"),
    ],
)
def test_a_file_of_something_else_is_refused(
    arguments: list[str | Path], tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "train.yaml").write_text(text)
    result = run(*arguments, "--config", tmp_path / "train.yaml")
    assert result.exit_code == 1
    assert said in " ".join(result.stderr.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--lr", "fast"], "--lr: expected auto or a number; found fast"),
        (["--set", "weight_decay"], "--set: expected name=value; found weight_decay"),
        (["--set", "weight_decay=[1"], "--set weight_decay: expected a value in YAML"),
        (["--lora", "r=0"], "--lora: expected r, a whole number"),
    ],
)
def test_options_that_are_none_are_refused(
    arguments: list[str | Path], options: list[str], said: str
) -> None:
    result = run(*arguments, *options)
    assert result.exit_code == 1
    assert said in " ".join(result.stderr.split())


def test_progress_is_said_as_far_as_it_is_known() -> None:
    first = TrainProgress(step=1, steps=9, loss=None, tokens_per_second=None, seconds_left=None)
    assert training_text("labels", first) == "labels: 1 of 9 steps"
    later = TrainProgress(
        step=1200, steps=9000, loss=1.25, tokens_per_second=5e4, seconds_left=3725.0
    )
    assert (
        training_text("soft-targets", later)
        == "soft-targets: 1,200 of 9,000 steps, loss 1.2500, 50,000 tokens/s, 1:02:05 left"
    )


def _train(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    from softtargets.cli import main

    main(arguments, standalone_mode=False)


@pytest.mark.slow
def test_two_processes_train_what_one_trains(
    arguments: list[str | Path], tmp_path: Path, taught: Store
) -> None:
    options = ["--batch-size", "2", "--global-batch-size", "8", "--lr", "1e-2", "--baseline"]
    options = [str(one) for one in [*arguments, *options]]
    place = options.index("--output") + 1
    for name, num_ranks in (("one", 1), ("two", 2)):
        own = [*options[:place], str(tmp_path / name), *options[place + 1 :]]
        code, printed = run_ranks(_train, own, num_ranks=num_ranks, log=tmp_path / f"{name}.log")
        assert code == 0, printed
        assert printed.count("To load the student") == 1
    first, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, value in first.items():
        torch.testing.assert_close(other[name], value, atol=1e-5, rtol=0)
    results = [
        json.loads((tmp_path / name / "train.json").read_text())["results"]
        for name in ("one", "two")
    ]
    for row in ("before", "after", "baseline"):
        assert results[0][row] == pytest.approx(results[1][row], abs=1e-4)
