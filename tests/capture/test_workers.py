"""Several processes: the same bytes, whoever runs a unit and whatever happens to them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from softtargets.capture import Progress, build
from softtargets.errors import InputError, StoreError, TeacherError
from softtargets.store import verify
from tests.fakes import TEXTS, FakeTeacher, build_config, build_store, shard_bytes
from tests.processes import none_left

pytestmark = pytest.mark.slow


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    (tmp_path / "whole").mkdir()
    return shard_bytes(build_store(tmp_path / "whole").root)


class Dying(FakeTeacher):
    """A teacher whose process is killed at its third batch, until it has happened often enough."""

    def __init__(self, marks: Path, num_deaths: int) -> None:
        super().__init__()
        self.marks, self.num_deaths, self.num_batches = marks, num_deaths, 0

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        self.num_batches += 1
        if self.num_batches == 3 and len(list(self.marks.iterdir())) < self.num_deaths:
            (self.marks / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().hidden_states(input_ids_BL)


class Allergic(FakeTeacher):
    """A teacher that gives no numbers for windows with a certain text in them."""

    text = b"remark"

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        hidden_BLD = super().hidden_states(input_ids_BL)
        for row, ids in enumerate(input_ids_BL.tolist()):
            if self.text in bytes(ids):
                hidden_BLD[row] = torch.nan
        return hidden_BLD


class Unloadable(FakeTeacher):
    def load(self) -> None:
        raise TeacherError("fake", expected="weights", found="none", next_step="Find them.")


class DyingAtLoad(FakeTeacher):
    def load(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_same_bytes(
    tmp_path: Path, expected: dict[str, bytes], workers: int
) -> None:
    seen: list[Progress] = []
    config = build_config(tmp_path, workers=workers)
    result = build(config, FakeTeacher(), seen.append)
    assert shard_bytes(config.output) == expected
    assert verify(config.output).is_sound
    assert result.num_units_before == 0
    assert (seen[0].num_tokens, seen[-1].num_tokens) == (0, seen[-1].all_tokens)
    names = sorted(path.name for path in config.output.iterdir())
    assert names == ["README.md", "manifest.json", "shards", "vocabulary.parquet"]


def test_units_of_workers_that_are_killed_are_taken_over(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    config = build_config(tmp_path, workers=2)
    build(config, Dying(marks, num_deaths=3))
    assert len(list(marks.iterdir())) >= 3
    assert shard_bytes(config.output) == expected


def test_a_unit_that_fails_three_times_is_reported_and_the_others_are_done(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    config = build_config(tmp_path, workers=2)
    with pytest.raises(StoreError, match=r"1 that failed 3 times") as caught:
        build(config, Allergic())
    message = str(caught.value)
    assert "corpus.jsonl:2" in message
    assert "NaN" in message
    assert Allergic.text.decode() in TEXTS[2]
    done = shard_bytes(config.output)
    assert len(done) == len(expected) - 1
    build(config, FakeTeacher())
    assert shard_bytes(config.output) == expected


@pytest.mark.parametrize(
    ("teacher", "error", "message"),
    [
        (Unloadable(), TeacherError, "fake: expected weights; found none"),
        (DyingAtLoad(), StoreError, "workers that load the teacher; found .* exit code -9"),
    ],
)
def test_a_teacher_that_does_not_load_ends_the_build(
    tmp_path: Path, teacher: FakeTeacher, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build(build_config(tmp_path, workers=2), teacher)


def test_an_interruption_leaves_no_process_and_no_unit_half(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    config = build_config(tmp_path, workers=2)

    def interrupt(progress: Progress) -> None:
        if progress.num_tokens > 100:
            raise KeyboardInterrupt

    with none_left(), pytest.raises(KeyboardInterrupt):
        build(config, FakeTeacher(), interrupt)
    assert set(shard_bytes(config.output).items()) <= {*expected.items(), *_temporary(config)}
    build(config, FakeTeacher())
    assert shard_bytes(config.output) == expected


def _temporary(config: Any) -> set[tuple[str, bytes]]:
    return {item for item in shard_bytes(config.output).items() if item[0].endswith(".tmp")}


def test_the_number_of_workers_is_positive(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--workers: expected a positive number; found 0"):
        build(build_config(tmp_path, workers=0), FakeTeacher())
