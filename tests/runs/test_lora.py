"""Students of every task are trained by LoRA, and saved as transformers loads them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from softtargets.capture import TeacherConfig, build
from softtargets.runs import TrainSettings, prepare, train
from softtargets.store import Store
from softtargets.tasks.classification.class_capture import ClassCapture
from softtargets.tasks.masked_lm.masked_capture import MaskedCapture
from tests.runs.conftest import short_training
from tests.runs.test_classifiers import PAIRS, save_student
from tests.runs.test_training import StoppedError, same, stop_after, weights_of
from tests.tasks.classifiers import class_config, save_classifier
from tests.tasks.masked import masked_config, masked_teacher, save_masked_model

Make = Callable[..., TrainSettings]


@pytest.fixture
def causal(taught: Store, llama: Path) -> Make:
    return partial(short_training, taught, llama, student="teacher[depth=2]")


@pytest.fixture
def masked(tmp_path: Path) -> Make:
    teacher = save_masked_model(tmp_path / "teacher", "Bert")
    config = masked_config(tmp_path, MaskedCapture(maskings=2))
    store = build(config, masked_teacher(teacher)).store
    return partial(short_training, store, teacher, student="teacher[depth=1]")


@pytest.fixture
def classes(tmp_path: Path) -> Make:
    """Return a training of an encoder that has learned no classes."""
    teacher, task = save_classifier(tmp_path / "teacher"), ClassCapture()
    config = class_config(tmp_path, [{"text": one} for one in PAIRS], task=task)
    live = task.teacher(TeacherConfig(name=str(teacher), dtype="float32", device="cpu"))
    student = save_student(tmp_path / "encoder")
    return partial(short_training, build(config, live).store, teacher, student=str(student))


def layers_of(model: Any, targets: str) -> set[str]:
    """Return the weights that LoRA adds to."""
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module is not model.get_output_embeddings()
        and (targets == "all-linear" or name.split(".")[-1] in targets.split("+"))
    }


@pytest.mark.slow
# peft asks a model for it by a name that transformers is about to drop.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("task", "auto", "targets"),
    [
        ("causal", "AutoModelForCausalLM", "all-linear"),
        ("masked", "AutoModelForMaskedLM", "all-linear"),
        ("classes", "AutoModelForSequenceClassification", "all-linear"),
        ("classes", "AutoModelForSequenceClassification", "query+value"),
    ],
)
def test_a_student_is_trained_by_lora_and_goes_on_to_the_same_weights(
    request: pytest.FixtureRequest, tmp_path: Path, task: str, auto: str, targets: str
) -> None:
    make = partial(
        request.getfixturevalue(task),
        learning_rate=1e-2,
        lora=f"r=2,dropout=0.1,targets={targets}",
    )
    first = prepare(make(tmp_path / "none", lora=None)).student.model
    results = train(prepare(make(tmp_path / "whole"))).results
    assert results["after"]["kl"] < results["before"]["kl"]
    # It loads as what it is, and no weight is missing or left over.
    student, found = getattr(transformers, auto).from_pretrained(
        tmp_path / "whole", output_loading_info=True
    )
    assert not any(found.values())
    before, after = first.state_dict(), student.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    # Classes that the encoder had not learned are trained too, and whole.
    new = {"classifier.weight", "classifier.bias"} if task == "classes" else set()
    assert changed == layers_of(first, targets) | new
    with pytest.raises(StoppedError):
        train(prepare(make(tmp_path / "run")), stop_after(7))
    steps: list[int] = []
    resumed = train(prepare(make(tmp_path / "run")), lambda _, one: steps.append(one.step))
    assert steps == [7, 8, 9, 10]
    assert resumed.results == results
    assert same(weights_of(tmp_path / "run"), weights_of(tmp_path / "whole"))
