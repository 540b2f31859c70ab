from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from softtargets.errors import InputError
from softtargets.runs.schedule import Schedule, check_ranges
from softtargets.runs.settings import TrainSettings


def schedule(num_windows: int = 1000, world_size: int = 1, **changes: Any) -> Schedule:
    settings = TrainSettings(store="s", student="s", output=Path("o"), **changes)
    check_ranges(settings)
    return Schedule.of(settings, num_windows, world_size)


@pytest.mark.parametrize(
    ("world_size", "changes", "expected"),
    [
        (1, {}, (8, 4)),
        (2, {}, (8, 2)),
        (3, {}, (1, 11)),
        (8, {}, (4, 1)),
        (2, {"batch_size": 3}, (3, 1)),
        (2, {"batch_size": 3, "global_batch_size": 12}, (3, 2)),
        (1, {"global_batch_size": 30}, (6, 5)),
    ],
)
def test_batches_make_the_global_batch(
    world_size: int, changes: dict[str, Any], expected: tuple[int, int]
) -> None:
    found = schedule(world_size=world_size, **changes)
    assert (found.batch_size, found.accumulated) == expected
    assert found.global_batch_size == world_size * expected[0] * expected[1]


def test_the_global_batch_is_the_same_on_any_number_of_processes() -> None:
    assert {schedule(world_size=number).global_batch_size for number in (1, 2, 4, 8)} == {32}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (96, 5, 19, 9)),
        ({"epochs": 0.5}, (16, 1, 3, 1)),
        ({"steps": 7, "warmup": 3}, (7, 3, 1, 1)),
        ({"steps": 100, "warmup": 0, "evaluation_steps": 9, "save_steps": 8}, (100, 0, 9, 8)),
    ],
)
def test_steps_follow_from_epochs(
    changes: dict[str, Any], expected: tuple[int, int, int, int]
) -> None:
    found = schedule(**changes)
    numbers = (found.steps, found.warmup_steps, found.evaluation_steps, found.save_steps)
    assert numbers == expected
    assert found.epochs == pytest.approx(found.steps / 32, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"world_size": 3, "global_batch_size": 32}, "a multiple of 3 processes; found 32"),
        ({"batch_size": 0}, "--batch-size: expected 1 or more; found 0"),
        ({"warmup": -1}, "--warmup: expected 0 or more"),
        ({"epochs": 0.0}, "--epochs: expected a positive number"),
        ({"learning_rate": float("nan")}, "--lr: expected a positive number"),
        ({"keep": 0}, "--keep: expected 1 or more"),
    ],
)
def test_numbers_that_cannot_be_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        schedule(**changes)
