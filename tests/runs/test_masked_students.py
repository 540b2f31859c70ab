"""Masked language models are trained by the same command, by the loss of DistilBERT too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, BertModel

from softtargets import SoftTargetDataset
from softtargets.capture import build
from softtargets.errors import InputError, SoftTargetsError
from softtargets.runs import TrainSettings, prepare, train
from softtargets.store import Store
from softtargets.tasks.masked_lm.masked_capture import MaskedCapture
from softtargets.train import StudentWithObjective, WeightedObjective, distillation_objective
from tests.runs.conftest import short_training
from tests.runs.test_training import StoppedError, same, stop_after, weights_of
from tests.tasks.masked import masked_config, masked_teacher, save_masked_model

Make = Callable[..., TrainSettings]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_masked_model(tmp_path_factory.mktemp("bert"), "Bert")


def build_masked(directory: Path, bert: Path, **changes: Any) -> Store:
    task = MaskedCapture(maskings=2)
    return build(masked_config(directory, task, **changes), masked_teacher(bert)).store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, bert: Path) -> Store:
    """A store with hidden states, at temperatures 1 and 2."""
    return build_masked(tmp_path_factory.mktemp("masked"), bert, hidden_states=True)


@pytest.fixture
def settings(store: Store, bert: Path, tmp_path: Path) -> Make:
    """Return a training by the loss of DistilBERT, with changes."""
    options: dict[str, Any] = {"student": "teacher[depth=1]", "recipe": "distilbert"}
    return partial(short_training, store, bert, tmp_path / "run", **options)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [None, "distilbert"])
def test_a_student_is_nearer_to_the_teacher_than_its_twin(
    settings: Make, tmp_path: Path, recipe: str | None
) -> None:
    run = prepare(settings(recipe=recipe, steps=40, learning_rate=1e-3, baseline=True))
    assert run.recipe_name == recipe or (recipe is None and run.recipe_name == "soft-targets")
    results = train(run).results
    before, after, baseline = (results[row] for row in ("before", "after", "baseline"))
    assert list(after) == ["kl", "cross_entropy", "agreement", "accuracy"]
    assert after["kl"] < before["kl"]
    assert after["kl"] < baseline["kl"]
    student = AutoModelForMaskedLM.from_pretrained(tmp_path / "run")
    assert student.config.num_hidden_layers == 1
    # The twin is saved too, to be compared in other ways.
    twin = AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "baseline")
    assert run.evaluation is not None
    found = run.evaluation.measure(twin, torch.device("cpu"), nullcontext())
    assert found == pytest.approx(baseline, rel=1e-5)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "student = AutoModelForMaskedLM.from_pretrained" in card
    assert ("logits to cosine of hidden states as 7 to 1" in card) == (recipe is not None)


@pytest.mark.slow
def test_the_recipe_is_the_loss_of_distilbert(settings: Make) -> None:
    run = prepare(settings())
    batch = next(iter(SoftTargetDataset(run.store, batch_size=4)))
    student = run.student.model.eval()
    by_recipe = run.task.recipe_objective(run.recipe, run.store)
    expected, found = (
        StudentWithObjective(student, one)(batch).item() for one in (WeightedObjective(), by_recipe)
    )
    assert found == pytest.approx(expected, rel=1e-6)
    # Each number may be another, and changes the loss as that of the class does.
    changed = prepare(settings(temperature=1.0, cosine_weight=3.0, ce_weight=0.5)).recipe
    own = WeightedObjective(3.5, 3.5, 3.0, temperature=1.0)
    other = run.task.recipe_objective(changed, run.store)
    expected, found = (StudentWithObjective(student, one)(batch).item() for one in (own, other))
    assert found == pytest.approx(expected, rel=1e-6)
    reverse = run.task.recipe_objective(replace(changed, divergence="reverse_kl"), run.store)
    assert StudentWithObjective(student, reverse)(batch).item() != pytest.approx(found, rel=1e-3)


@pytest.mark.slow
def test_few_targets_alone_go_through_the_head(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(settings())
    batch = next(iter(SoftTargetDataset(run.store, batch_size=4)))
    student, objective = run.student.model.eval(), run.task.recipe_objective(run.recipe, run.store)
    assert not objective.fuses(batch)
    by_logits = StudentWithObjective(student, objective)(batch).item()
    monkeypatch.setattr(distillation_objective, "_SPARSE_FROM_BYTES", 1)
    assert objective.fuses(batch) == "auto"
    # The decoder of BERT is a plain Linear: the loss is computed in its place, never of logits.
    monkeypatch.setattr(objective, "_by_logits", None)
    fused = StudentWithObjective(student, objective)(batch).item()
    assert fused == pytest.approx(by_logits, rel=1e-5)
    batch["num_targets"] = batch["input_ids"].numel()
    assert not objective.fuses(batch)


def test_a_student_has_positions_for_the_longest_window(
    settings: Make, store: Store, tmp_path: Path
) -> None:
    longest = max(len(window.input_ids_L) for window in store)
    assert any(len(window.input_ids_L) < longest for window in store)
    sizes: dict[str, Any] = {"vocab_size": store.targets.vocab_size, "num_hidden_layers": 1}
    sizes |= {"hidden_size": 32, "intermediate_size": 16, "num_attention_heads": 2}
    for positions in (longest - 1, longest):
        config = BertConfig(**sizes, max_position_embeddings=positions)
        config.save_pretrained(tmp_path / str(positions))
    students = [str(tmp_path / str(longest - less) / "config.json") for less in (1, 0)]
    said = f"expected positions for its {longest} tokens; found {longest - 1}. .*more positions"
    with pytest.raises(InputError, match=said):
        prepare(settings(student=students[0]))
    assert not (tmp_path / "run").exists()
    prepare(settings(student=students[1]))


@pytest.mark.slow
def test_the_teacher_is_as_near_to_itself_as_can_be(settings: Make) -> None:
    before = train(prepare(settings(student="teacher[depth=2]", steps=1))).results["before"]
    assert abs(before["kl"]) < 1e-5
    assert before["agreement"] == 1.0


@pytest.mark.slow
def test_a_run_that_is_stopped_ends_with_the_same_weights(settings: Make, tmp_path: Path) -> None:
    whole = train(prepare(settings(output=tmp_path / "whole")))
    with pytest.raises(StoppedError):
        train(prepare(settings()), stop_after(7))
    assert train(prepare(settings())).results == whole.results
    assert same(weights_of(tmp_path / "run"), weights_of(tmp_path / "whole"))


@pytest.mark.slow
def test_what_does_not_fit_is_said_before_anything_is_written(
    settings: Make, store: Store, bert: Path, tmp_path: Path
) -> None:
    for name in ("bare", "cold"):
        (tmp_path / name).mkdir()
    bare = build_masked(tmp_path / "bare", bert).root
    cold = build_masked(tmp_path / "cold", bert, hidden_states=True, temperatures=(1.0,)).root
    sizes: dict[str, Any] = {"vocab_size": store.targets.vocab_size, "num_hidden_layers": 1}
    sizes |= {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    thin = BertConfig(**sizes)
    thin.save_pretrained(tmp_path / "thin")
    BertConfig(**{**sizes, "vocab_size": 50}).save_pretrained(tmp_path / "few")
    BertModel(thin).save_pretrained(tmp_path / "headless")
    student = {"student": str(tmp_path / "thin" / "config.json")}
    for changes, said in (
        ({"store": bare}, "its cosine: expected a store with the teacher's last hidden states"),
        ({"store": cold}, "temperature 2: expected one of the temperatures stored: 1"),
        (student, "whose hidden states are 32 wide, .*; found 16.*--cosine-weight 0"),
        (
            {"student": str(tmp_path / "few" / "config.json")},
            f"at least the teacher's {store.targets.vocab_size} outputs; found 50",
        ),
        (
            {"student": str(tmp_path / "headless"), "tokenizer": str(bert)},
            "weights of the whole of a masked language model, .*; found none for cls",
        ),
    ):
        with pytest.raises(SoftTargetsError, match=said) as caught:
            prepare(settings(**changes))
        assert caught.value.next_step
        assert not (tmp_path / "run").exists()
    # What is left out is not asked for.
    assert prepare(settings(store=bare, cosine_weight=0.0)).recipe.cosine_weight == 0
    assert prepare(settings(store=cold, temperature=1.0)).recipe.temperature == 1
    assert prepare(settings(**student, cosine_weight=0.0)).student.model.config.hidden_size == 16
    assert isinstance(prepare(settings(recipe="labels")).student.model, BertForMaskedLM)
