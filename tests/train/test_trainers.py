"""Real trainers deliver every window in the order of the store, whenever they stop and go on.

What they train is the same too: the weights after two epochs do not depend on the trainer, on
accumulation, on ranks, or on where a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softtargets import Store
from tests.train.programs import launch
from tests.train.runs import EPOCHS, GLOBAL_BATCH_SIZE, TRAINERS, make_student, open_dataset

pytestmark = [
    # Of torchdata and Lightning: how they use torch, and that nothing is validated here.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but:UserWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is:FutureWarning"),
]

ACCUMULATED = 3
TOLERANCE = 1e-5
"""Of a sum of weights: the loss is rounded to float32, in another order, in some ten steps."""


@pytest.fixture(autouse=True)
def _own_random_numbers() -> Iterator[None]:
    """Trainers seed everything; what other tests draw does not depend on it."""
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture(scope="module")
def weights(_built: Path) -> list[float]:
    """The weights after a training in one process that was never stopped."""
    with torch.random.fork_rng(devices=[]):
        found: list[float] = TRAINERS["plain"](str(_built / "store"), "")["weights"]
        before = [float(one.detach().double().sum()) for one in make_student().parameters()]
    assert np.abs(np.subtract(found, before)).max() > 1000 * TOLERANCE
    return found


def windows_in_order(store: Store) -> list[str]:
    """Return what a training delivers: every window once an epoch, in the order of the places."""
    dataset, found = open_dataset(str(store.root)), []
    for epoch in range(EPOCHS):
        dataset.set_epoch(epoch)
        found += [window.window_id for window in dataset]
    return found


def delivered(*runs: list[dict[str, Any]]) -> list[str]:
    """Return the windows of runs one after the other, each given as the reports of its ranks."""
    batches = chain(*(zip(*(rank["steps"] for rank in run), strict=True) for run in runs))
    return [one for batch in batches for row in zip(*batch, strict=True) for one in row if one]


def accumulations(trainer: str) -> tuple[int, ...]:
    return (1,) if trainer == "torchdata" else (1, ACCUMULATED)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_training_goes_on_where_it_stopped(store: Store, tmp_path: Path, trainer: str) -> None:
    train, accumulated = TRAINERS[trainer], accumulations(trainer)[-1]
    first = train(str(store.root), str(tmp_path), stop=7, accumulated=accumulated)
    rest = train(str(store.root), str(tmp_path), resume=True, accumulated=accumulated)
    assert len(store) % GLOBAL_BATCH_SIZE
    assert len(first["steps"]) == 5 * accumulated + 2 * accumulated - (accumulated > 1)
    assert delivered([first], [rest]) == windows_in_order(store)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_no_stop_changes_a_training(
    store: Store, tmp_path: Path, trainer: str, weights: list[float]
) -> None:
    expected = windows_in_order(store)
    rng = np.random.default_rng(len(trainer))
    for case in range(6):
        how = {
            "num_workers": int(rng.integers(0, 3)),
            "accumulated": int(rng.choice(accumulations(trainer))),
        }
        directory, stops = str(tmp_path / f"{case}"), int(rng.integers(0, 3))
        Path(directory).mkdir()
        runs: list[list[dict[str, Any]]] = []
        for number in range(stops):
            stop = int(rng.integers(1, 5))
            options: dict[str, Any] = {"stop": stop, "resume": number > 0, **how}
            runs.append([TRAINERS[trainer](str(store.root), directory, **options)])
            if trainer != "torchdata":
                how["num_workers"] = int(rng.integers(0, 3))
        last = TRAINERS[trainer](str(store.root), directory, resume=stops > 0, **how)
        assert delivered(*runs, [last]) == expected
        np.testing.assert_allclose(last["weights"], weights, atol=TOLERANCE, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", sorted(set(TRAINERS) - {"torchdata"}))
def test_two_processes_train_as_one(
    store: Store, tmp_path: Path, trainer: str, weights: list[float]
) -> None:
    expected = windows_in_order(store)
    root = str(store.root)
    paths = [str(tmp_path / name) for name in ("whole", "two", "one")]
    for path in paths:
        Path(path).mkdir()
    one = TRAINERS[trainer](root, paths[2], stop=3, accumulated=ACCUMULATED)
    runs = [
        {"store": root, "directory": paths[0], "accumulated": 1},
        {"store": root, "directory": paths[0], "accumulated": ACCUMULATED},
        {"store": root, "directory": paths[1], "stop": 4, "num_workers": 1},
        {"store": root, "directory": paths[2], "resume": True, "accumulated": ACCUMULATED},
    ]
    ranks = launch("train", trainer, runs, num_processes=2, directory=tmp_path / "reports")
    whole, accumulated, stopped, resumed = ([rank[run] for rank in ranks] for run in range(4))
    last = TRAINERS[trainer](root, paths[1], resume=True)
    assert delivered(whole) == delivered(accumulated) == expected
    assert delivered(stopped, [last]) == delivered([one], resumed) == expected
    for run in (*whole, *accumulated, *resumed, last):
        np.testing.assert_allclose(run["weights"], weights, atol=TOLERANCE, rtol=0)


FUSING = ("accelerate", "hf", "trl", "lightning")
FUSED_TOLERANCE = 10 * TOLERANCE
"""A hundredth of what training changes: fused, the head's products are summed in another order."""


@pytest.mark.slow
@pytest.mark.parametrize("trainer", FUSING)
def test_a_fused_loss_trains_what_logits_train(
    store: Store, tmp_path: Path, trainer: str, weights: list[float]
) -> None:
    found = TRAINERS[trainer](str(store.root), str(tmp_path), fused=True, accumulated=ACCUMULATED)
    np.testing.assert_allclose(found["weights"], weights, atol=FUSED_TOLERANCE, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", FUSING)
def test_two_processes_train_a_fused_loss_as_one(
    store: Store, tmp_path: Path, trainer: str, weights: list[float]
) -> None:
    run = {"store": str(store.root), "directory": str(tmp_path), "fused": True}
    ranks = launch("train", trainer, [run], num_processes=2, directory=tmp_path / "reports")
    for [found] in ranks:
        np.testing.assert_allclose(found["weights"], weights, atol=FUSED_TOLERANCE, rtol=0)
