"""Two processes train classifiers and masked language models as one does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from softtargets.capture import TeacherConfig, build
from softtargets.runs import TrainSettings, prepare, train
from softtargets.store import Store
from tests.layers.models import build_layers, save_model, save_small_config
from tests.layers.models import save_classifier as save_layered_classifier
from tests.ranks import run_ranks
from tests.runs.conftest import short_training
from tests.runs.test_classifiers import KINDS
from tests.runs.test_masked_students import build_masked
from tests.runs.test_training import weights_of
from tests.tasks.classifiers import class_config, save_classifier
from tests.tasks.masked import save_masked_model

Taught = tuple[Store, Path, str]
"""A store, its teacher and the student."""

WITHOUT_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""Processes drop other units each, as they should."""
HALF = "teacher[depth=1]"


def classifier(directory: Path) -> Taught:
    """With a store of texts of which some have a label."""
    architecture, changes, records, task = KINDS["one"]
    model = save_classifier(directory / "teacher", architecture, **changes, **WITHOUT_DROPOUT)
    teacher = task.teacher(TeacherConfig(name=str(model), dtype="float32", device="cpu"))
    return build(class_config(directory, records, task=task), teacher).store, model, HALF


def masked(directory: Path) -> Taught:
    """With a store of windows with unlike numbers of targets."""
    model = save_masked_model(directory / "teacher", "Bert", **WITHOUT_DROPOUT)
    return build_masked(directory, model, hidden_states=True), model, HALF


def layered(directory: Path) -> Taught:
    """With a store of layers, and a student that learns a projection."""
    model = save_model(directory / "teacher", "bert")
    store = build_layers(directory, model, "bert", layers=(0,), rerun_layers=(1, 3))
    student = save_small_config(directory, store.targets.vocab_size, **WITHOUT_DROPOUT)
    return store, model, student


def layered_classes(directory: Path) -> Taught:
    """With a store of layers of a classifier; halfway its class logits are learned instead."""
    language_model = save_model(directory / "bert", "bert")
    model = save_layered_classifier(directory / "teacher", language_model)
    store = build_layers(directory, model, "classes", layers=(0,), rerun_layers=(1, 3))
    vocab_size = AutoConfig.from_pretrained(model).vocab_size
    changes = {"num_labels": 3, **WITHOUT_DROPOUT}
    return store, model, save_small_config(directory, vocab_size, **changes)


def train_here(chosen: TrainSettings) -> None:
    """Train as a process of several does."""
    torch.set_num_threads(1)
    train(prepare(chosen))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "recipe"),
    [
        (classifier, {"ce_weight": 0.5}),
        (masked, {"recipe": "distilbert"}),
        # A mean over the tokens of a batch depends on which windows are in it.
        (layered, {"recipe": "tinybert-general", "batch_size": 1}),
        (layered_classes, {"recipe": "tinybert-task", "batch_size": 1}),
    ],
)
def test_two_processes_train_what_one_trains(
    make: Callable[[Path], Taught], recipe: dict[str, Any], tmp_path: Path
) -> None:
    store, teacher, student = make(tmp_path)
    for num_ranks in (1, 2):
        chosen = short_training(
            store, teacher, tmp_path / str(num_ranks), student=student, global_batch_size=8,
            steps=4, learning_rate=1e-2, **{"batch_size": 2, **recipe},
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
