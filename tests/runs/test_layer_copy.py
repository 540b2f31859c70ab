"""Layers of every architecture that has a list of them; each student is loaded again."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    Qwen3Config,
    T5Config,
    T5ForConditionalGeneration,
)

from softtargets.errors import InputError
from softtargets.runs.layer_copy import copy_layers

SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
}
HEADS: dict[str, Any] = {"num_key_value_heads": 1, "head_dim": 8}
CLASSES: dict[str, Any] = {"num_labels": 3}
KINDS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
CASES: dict[str, tuple[Any, Any]] = {
    "llama": (AutoModelForCausalLM, LlamaConfig(**SMALL)),
    "qwen3": (AutoModelForCausalLM, Qwen3Config(**SMALL, **HEADS)),
    "gemma3": (
        AutoModelForCausalLM,
        Gemma3TextConfig(**SMALL, **HEADS, sliding_window=3, layer_types=KINDS),
    ),
    "gpt2": (AutoModelForCausalLM, GPT2Config(vocab_size=50, n_embd=16, n_layer=4, n_head=2)),
    "bert": (AutoModelForMaskedLM, BertConfig(**SMALL)),
    "bert-classifier": (AutoModelForSequenceClassification, BertConfig(**SMALL, **CLASSES)),
    "distilbert": (
        AutoModelForMaskedLM,
        DistilBertConfig(vocab_size=50, dim=16, hidden_dim=24, n_layers=4, n_heads=2),
    ),
}


def case(name: str) -> tuple[Any, Any]:
    """Return the class and a configuration of its own, which a teacher's layers are taken from."""
    auto, config = CASES[name]
    return auto, copy.deepcopy(config)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_student_is_the_teacher_without_some_layers(tmp_path: Path, name: str) -> None:
    auto, config = case(name)
    torch.manual_seed(0)
    teacher = auto.from_config(config).eval()
    ids_1L = torch.arange(7)[None]
    before = teacher(input_ids=ids_1L).logits
    weights = {key: value.clone() for key, value in teacher.state_dict().items()}
    student = copy_layers(teacher, (0, 3))
    student.save_pretrained(tmp_path)
    loaded = auto.from_pretrained(tmp_path).eval()
    assert loaded.config.num_hidden_layers == 2
    if name == "gemma3":
        assert loaded.config.layer_types == [KINDS[0], KINDS[3]]
    own = loaded.state_dict()
    assert {value.shape for value in own.values()} <= {one.shape for one in weights.values()}
    for key, value in own.items():
        # Layer 1 of the student is layer 3 of the teacher, everything else has its own name.
        old = ".".join("3" if part == "1" else part for part in key.split("."))
        assert torch.equal(value, weights[old]), key
    after = loaded(input_ids=ids_1L).logits
    assert after.shape == before.shape
    assert not torch.equal(after, before)


def test_all_layers_make_the_teacher() -> None:
    auto, config = case("llama")
    teacher = auto.from_config(config).eval()
    before = teacher(input_ids=torch.arange(7)[None]).logits
    student = copy_layers(teacher, range(4))
    assert torch.equal(student(input_ids=torch.arange(7)[None]).logits, before)


def test_architectures_without_one_list_of_layers_are_refused() -> None:
    albert = AutoModelForMaskedLM.from_config(AlbertConfig(**SMALL, embedding_size=8))
    with pytest.raises(InputError, match="expected a model with one list of layers"):
        copy_layers(albert, (0, 1))
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
    )
    with pytest.raises(InputError, match="T5ForConditionalGeneration with 2 lists"):
        copy_layers(t5, (0,))


def test_a_student_that_answers_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one would whose configuration says something of each layer that is not known here."""
    auto, config = case("llama")
    teacher = auto.from_config(config)
    reduce_config = "softtargets.runs.layer_copy.reduce_config"

    def forget(config: Any, layers: Any) -> None:
        config.num_hidden_layers = len(layers)
        config.rms_norm_eps = 0.5 + config.rms_norm_eps

    monkeypatch.setattr(reduce_config, forget)
    with pytest.raises(InputError, match="found one that answers otherwise"):
        copy_layers(teacher, (0, 1))
