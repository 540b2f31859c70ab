"""A store of a teacher that transformers loads, and the options to train a student on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from softtargets.capture import TeacherConfig, TransformersTeacher, build
from softtargets.runs import TrainSettings
from softtargets.store import Store
from tests.fakes import TEXTS, build_config, byte_tokenizer, write_corpus

NUM_LAYERS = 4


@pytest.fixture(autouse=True)
def _own_random_numbers() -> Iterator[None]:
    """A training seeds everything; what other tests draw does not depend on it."""
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture
def plots() -> None:
    """Let runs be plotted."""


@pytest.fixture(autouse=True)
def _no_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plot takes longer than all else of a run, and most tests do not look at it."""
    if "plots" not in request.fixturenames:
        monkeypatch.setattr("softtargets.runs.training.write_plot", lambda *_: False)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of four layers with a token for each byte."""
    directory = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=2,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Store:
    """A store of that teacher, of documents that are unlike each other."""
    directory = tmp_path_factory.mktemp("taught")
    write_corpus(directory / "corpus.jsonl", [f"{n} {text}" for n in range(4) for text in TEXTS])
    teacher = TransformersTeacher(TeacherConfig(name=str(llama), dtype="float32", device="cpu"))
    config = build_config(directory, unit_tokens=500)
    return build(config, teacher).store


@pytest.fixture
def settings(taught: Store, llama: Path, tmp_path: Path) -> Callable[..., TrainSettings]:
    """Return a short training, with changes."""

    return partial(short_training, taught, llama, tmp_path / "run")


def short_training(store: Store, teacher: Path, output: Path, /, **changes: Any) -> TrainSettings:
    """Return a short training of half a teacher, with changes."""
    defaults: dict[str, Any] = {
        "store": store.root,
        "student": "teacher[depth=2]",
        "teacher": str(teacher),
        "output": output,
        "steps": 10,
        "batch_size": 4,
        "evaluation_share": 0.2,
        "save_steps": 3,
    }
    return TrainSettings(**{**defaults, **changes})
