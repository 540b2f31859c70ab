"""TinyBERT in two stages and MiniLM, by the command's own runs: resumed, saved, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from softtargets.errors import SoftTargetsError
from softtargets.runs import TrainSettings, prepare, train
from softtargets.store import Store
from tests.layers.models import (
    build_layers,
    save_classifier,
    save_model,
    save_small_config,
)
from tests.runs.conftest import short_training
from tests.runs.test_training import StoppedError, same, stop_after, weights_of

Make = Callable[..., TrainSettings]
LAYERS: dict[str, Any] = {"layers": (0,), "rerun_layers": (1, 3)}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory, bert: Path) -> Store:
    """A store of the language model, with layers."""
    return build_layers(tmp_path_factory.mktemp("general"), bert, "bert", **LAYERS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, general: Store) -> str:
    """The configuration of a student of half the depth and half the width."""
    return save_small_config(tmp_path_factory.mktemp("small"), general.targets.vocab_size)


@pytest.fixture
def settings(general: Store, bert: Path, small: str, tmp_path: Path) -> Make:
    """Return a training in the general stage, with changes."""
    options: dict[str, Any] = {"student": small, "recipe": "tinybert-general"}
    return partial(short_training, general, bert, tmp_path / "run", **options)


def logged_losses(run: Path) -> list[float]:
    lines = (run / "log.jsonl").read_text().splitlines()
    return [one["loss"] for one in map(json.loads, lines) if "loss" in one]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["tinybert-general", "minilm"])
def test_a_student_of_another_width_learns_layers(
    settings: Make, tmp_path: Path, recipe: str
) -> None:
    train(prepare(settings(recipe=recipe, steps=40, learning_rate=3e-3, warmup=0)))
    losses = logged_losses(tmp_path / "run")
    assert losses[-1] < 0.9 * losses[0]
    card = (tmp_path / "run" / "README.md").read_text()
    assert recipe in card
    assert ("hidden states" if recipe == "tinybert-general" else "relations") in card


@pytest.mark.slow
def test_projections_are_checkpointed_and_not_saved(settings: Make, tmp_path: Path) -> None:
    train(prepare(settings()))
    state = torch.load(tmp_path / "run" / "checkpoints" / "checkpoint-10" / "objective.pt")
    assert state["project_hidden.weight"].shape == (32, 16)
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert not [name for name in saved if "project" in name]
    decided = json.loads((tmp_path / "run" / "train.json").read_text())["decides"]
    assert decided["layers"]["kind"] == "tinybert"


@pytest.mark.slow
def test_runs_of_other_recipes_say_what_they_did_before(settings: Make) -> None:
    """So one of an older release goes on."""
    assert "layers" not in prepare(settings(recipe="soft-targets")).decides


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["tinybert-general", "minilm"])
def test_a_run_that_is_stopped_ends_with_the_same_weights(
    settings: Make, tmp_path: Path, recipe: str
) -> None:
    train(prepare(settings(recipe=recipe, output=tmp_path / "whole")))
    with pytest.raises(StoppedError):
        train(prepare(settings(recipe=recipe)), stop_after(7))
    train(prepare(settings(recipe=recipe)))
    assert same(weights_of(tmp_path / "run"), weights_of(tmp_path / "whole"))
    if recipe == "tinybert-general":
        states = [
            torch.load(tmp_path / run / "checkpoints" / "checkpoint-10" / "objective.pt")
            for run in ("run", "whole")
        ]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.slow
def test_the_task_stage_goes_on_from_the_general_one(
    settings: Make, tmp_path: Path, bert: Path
) -> None:
    """Layers of the fine-tuned teacher first, then its logits; stopped in the second half too."""
    train(prepare(settings()))
    teacher = save_classifier(tmp_path / "classifier", bert)
    store = build_layers(tmp_path / "task", teacher, "classes", **LAYERS)
    task = partial(
        short_training,
        store,
        teacher,
        student=str(tmp_path / "run"),
        recipe="tinybert-task",
        steps=40,
        save_steps=10,
        learning_rate=3e-3,
        warmup=0.0,
    )
    whole = train(prepare(task(tmp_path / "whole")))
    losses = logged_losses(tmp_path / "whole")
    # Halfway the loss is another one: a KL of three classes, and no sum over layers.
    assert losses[18] > 1 > losses[22]
    assert whole.results["after"]["kl"] < whole.results["before"]["kl"]
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole")
    assert (student.config.hidden_size, student.config.num_labels) == (16, 3)
    with pytest.raises(StoppedError):
        train(prepare(task(tmp_path / "again")), stop_after(33))
    assert train(prepare(task(tmp_path / "again"))).results == whole.results
    assert same(weights_of(tmp_path / "again"), weights_of(tmp_path / "whole"))


@pytest.mark.slow
def test_what_does_not_fit_is_said_before_anything_is_written(
    settings: Make, bert: Path, tmp_path: Path
) -> None:
    bare = build_layers(tmp_path / "bare", bert, "bert").root
    for changes, said in (
        ({"store": bare}, "expected a store with weights of the teacher's layers.*--rerun-layers"),
        ({"student": "teacher[depth=3]"}, "--layer-map: expected .* each of the student's 3"),
        ({"layer_map": (0, 3)}, r"expected a store with layers 0,3.*found one with 1, 3"),
        ({"recipe": "minilm", "relation_heads": 5}, "relation heads: expected a number that div"),
        ({"recipe": "soft-targets", "hidden_weight": 1.0}, "--hidden-weight: expected a recipe of"),
        ({"recipe": "tinybert-task"}, "--recipe: expected one of"),
        ({"logits_share": 1.5}, "logits_share"),
    ):
        with pytest.raises(SoftTargetsError, match=said) as caught:
            prepare(settings(**changes))
        assert caught.value.next_step
        assert not (tmp_path / "run").exists()
