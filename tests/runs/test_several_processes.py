"""Two processes train classifiers and masked language models as one does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from softtargets.capture import TeacherConfig, build
from softtargets.runs import TrainSettings, prepare, train
from softtargets.store import Store
from tests.ranks import run_ranks
from tests.runs.conftest import short_training
from tests.runs.test_classifiers import KINDS
from tests.runs.test_masked_students import build_masked
from tests.runs.test_training import weights_of
from tests.tasks.classifiers import class_config, save_classifier
from tests.tasks.masked import save_masked_model

WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""Processes drop other units each, as they should."""


def classifier(directory: Path) -> tuple[Store, Path]:
    """Return a store of texts of which some have a label, and its teacher."""
    architecture, changes, records, task = KINDS["one"]
    model = save_classifier(directory / "teacher", architecture, **changes, **WITHOUT_DROPOUT)
    teacher = task.teacher(TeacherConfig(name=str(model), dtype="float32", device="cpu"))
    return build(class_config(directory, records, task=task), teacher).store, model


def masked(directory: Path) -> tuple[Store, Path]:
    """Return a store of windows with unlike numbers of targets, and its teacher."""
    model = save_masked_model(directory / "teacher", "Bert", **WITHOUT_DROPOUT)
    return build_masked(directory, model, hidden_states=True), model


def train_here(chosen: TrainSettings) -> None:
    """Train as a process of several does."""
    torch.set_num_threads(1)
    train(prepare(chosen))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "recipe"), [(classifier, {"ce_weight": 0.5}), (masked, {"recipe": "distilbert"})]
)
def test_two_processes_train_what_one_trains(
    make: Callable[[Path], tuple[Store, Path]], recipe: dict[str, Any], tmp_path: Path
) -> None:
    taught = make(tmp_path)
    for num_ranks in (1, 2):
        chosen = short_training(
            *taught, tmp_path / str(num_ranks), student="teacher[depth=1]", batch_size=2,
            global_batch_size=8, steps=4, learning_rate=1e-2, **recipe,
        )  # fmt: skip
        log = tmp_path / f"{num_ranks}.log"
        code, printed = run_ranks(train_here, chosen, num_ranks=num_ranks, log=log)
        assert code == 0, printed
    one, two = (weights_of(tmp_path / name) for name in ("1", "2"))
    for name, value in one.items():
        # What is added to every key moves no attention: its gradient is rounding, which Adam scales
        # up to a whole step.
        if not name.endswith("key.bias"):
            torch.testing.assert_close(two[name], value, atol=1e-5, rtol=0)
