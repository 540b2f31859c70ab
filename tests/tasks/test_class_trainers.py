"""Every trainer on a store of classes: all of them train to the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from softtargets import Store
from softtargets.capture import TeacherConfig, build
from softtargets.sharing import push
from softtargets.tasks.classification.class_capture import ClassCapture
from tests.hub import Hub
from tests.sharing.conftest import hub  # noqa: F401
from tests.tasks.classifiers import class_config, save_classifier
from tests.train import runs

pytestmark = [
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but:UserWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]
TRAINERS: dict[str, Callable[..., dict[str, Any]]] = {
    "accelerate": runs.train_accelerate,
    "lightning": runs.train_lightning,
    "torchdata": runs.train_torchdata,
    "transformers": runs.train_hf,
}


@pytest.fixture(scope="module", params=["Sequence", "Token"])
def stored(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path, str]:
    """A store, its teacher, and the teacher's class."""
    directory = tmp_path_factory.mktemp("trained")
    architecture = f"BertFor{request.param}Classification"
    teacher = save_classifier(directory / "teacher", architecture)
    records = [
        {"text": text.split(), "kind": [1] * len(text.split()) if request.param == "Token" else 1}
        for text in ("who is it", "the cat walked so", "what was the dog", "it is so", "dog . cat")
    ]
    config = class_config(directory, records)
    named = TeacherConfig(name=str(teacher), dtype="float32", device="cpu")
    return build(config, ClassCapture().teacher(named)).store, teacher, architecture


@pytest.fixture
def student(stored: tuple[Store, Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trainers make a student that is the teacher with other weights, without dropout."""
    _, teacher, architecture = stored

    def make_student() -> torch.nn.Module:
        model_class = getattr(transformers, architecture)
        config = model_class.config_class.from_pretrained(
            teacher, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
        torch.manual_seed(1)
        made: torch.nn.Module = model_class(config)
        return made

    monkeypatch.setattr(runs, "make_student", make_student)


@pytest.mark.slow
@pytest.mark.usefixtures("student")
@pytest.mark.parametrize("name", TRAINERS)
def test_every_trainer_trains_as_a_plain_loop_does(
    name: str, stored: tuple[Store, Path, str], tmp_path: Path
) -> None:
    store = str(stored[0].root)
    expected = runs.train_plain(store, str(tmp_path))
    found = TRAINERS[name](store, str(tmp_path))
    assert found["steps"] == expected["steps"]
    assert len(found["steps"]) == runs.EPOCHS
    torch.testing.assert_close(
        torch.tensor(found["weights"]), torch.tensor(expected["weights"]), rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow
def test_it_is_pushed(stored: tuple[Store, Path, str], hub: Hub) -> None:  # noqa: F811
    assert push(stored[0], "org/classes", api=hub.client()).num_files >= len(
        stored[0].manifest.shards
    )
