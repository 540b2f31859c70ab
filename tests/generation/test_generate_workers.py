"""Several processes that generate: the same bytes, whatever happens to them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from softtargets.capture import TeacherConfig
from softtargets.errors import BusyError, StoreError, TeacherError
from softtargets.generation import GenerateProgress, generate
from softtargets.generation.generation_files import GenerationFiles
from softtargets.tasks.seq2seq.seq2seq_teacher import Seq2SeqTeacher
from tests.commands import run
from tests.generation.test_generate import pair_generation
from tests.tasks.translators import PAIRS, save_pairs, save_translator, translator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_translator(tmp_path_factory.mktemp("Marian"), "Marian")


class Mortal(Seq2SeqTeacher):
    """A teacher whose process is killed at its second batch, as often as a file beside it says."""

    num_batches = 0

    def generate(self, inputs: Any, settings: Any) -> torch.Tensor:
        self.num_batches += 1
        left = Path(f"{self.config.name}.deaths")
        if self.num_batches == 2 and (number := int(left.read_text())):
            left.write_text(str(number - 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().generate(inputs, settings)


def mortal(model: Path, num_deaths: int) -> Mortal:
    Path(f"{model}.deaths").write_text(str(num_deaths))
    return Mortal(TeacherConfig(name=str(model), dtype="float32", device="cpu"))


@pytest.mark.parametrize("num_deaths", [0, 2])
def test_two_processes_write_the_bytes_of_one(tmp_path: Path, model: Path, num_deaths: int) -> None:
    whole = pair_generation(tmp_path, output=tmp_path / "whole.jsonl", unit_records=1)
    result = generate(whole, translator(model))
    config = pair_generation(tmp_path, unit_records=1, workers=2)
    notes: list[GenerateProgress] = []
    again = generate(config, mortal(model, num_deaths), notes.append)
    assert config.output.read_bytes() == whole.output.read_bytes()
    assert again.counts == result.counts
    assert Path(f"{model}.deaths").read_text() == "0"
    assert notes[-1] == GenerateProgress(
        num_units=5, all_units=5, num_answers=5, num_tokens=result.counts["tokens"]
    )
    assert not Path(f"{config.output}.work").exists()


def test_a_unit_that_ends_three_processes_is_reported_and_what_is_done_is_kept(
    tmp_path: Path, model: Path
) -> None:
    config = pair_generation(tmp_path, unit_records=3, batch_tokens=1, workers=2)
    with pytest.raises(StoreError, match=r"unit \d, which failed 3 times: its process ended"):
        generate(config, mortal(model, 100))
    assert not config.output.exists()
    generate(config, translator(model))
    assert len(config.output.read_text().splitlines()) == 2 * len(PAIRS)


class Unloadable(Seq2SeqTeacher):
    def load(self) -> None:
        raise TeacherError("fake", expected="weights", found="none", next_step="Find them.")


def test_what_is_wrong_with_the_teacher_ends_all(tmp_path: Path, model: Path) -> None:
    teacher = Unloadable(TeacherConfig(name=str(model), dtype="float32", device="cpu"))
    with pytest.raises(TeacherError, match="expected weights"):
        generate(pair_generation(tmp_path, workers=2), teacher)


def test_a_worker_that_writes_yet_keeps_others_out(tmp_path: Path, model: Path) -> None:
    config = pair_generation(tmp_path)
    files = GenerationFiles(config.output, {})
    files._work.make_directory("")
    with files.working(), pytest.raises(BusyError):
        generate(config, translator(model))
    generate(config, translator(model))


def test_the_command_takes_workers(tmp_path: Path, model: Path) -> None:
    corpus, path = save_pairs(tmp_path / "pairs.jsonl"), tmp_path / "own.jsonl"
    result = run(
        "generate", "--teacher", model, "--input", corpus, "--text-field", "en", "--target-field",
        "de", "--max-new-tokens", "9", "--num-beams", "2", "--workers", "2", "--output", path,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "5 prompts, 5 answers" in result.output
    refused = run(
        "generate", "--teacher", model, "--input", corpus, "--text-field", "en", "--target-field",
        "de", "--workers", "0", "--output", tmp_path / "none.jsonl",
    )  # fmt: skip
    assert "--workers: expected at least 1" in refused.output
