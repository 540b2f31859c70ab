"""Tiny models of several architectures with random weights, and teachers and stores of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from softtargets.capture import (
    BuildConfig,
    Corpus,
    TeacherConfig,
    TopK,
    TransformersTeacher,
    Windowing,
    build,
)
from softtargets.capture.teacher import Teacher
from softtargets.store import Store
from softtargets.tasks.classification.class_capture import ClassCapture
from softtargets.tasks.classification.classifier import SequenceClassifier
from softtargets.tasks.masked_lm.masked_capture import MaskedCapture
from tests.fakes import build_config, byte_tokenizer, write_corpus
from tests.tasks.masked import masked_config, masked_teacher, save_masked_model

NUM_LAYERS, WIDTH, HEADS = 4, 32, 4
TEXTS = (
    "So she",
    "Alice was beginning",
    "Either the well was very deep, or she fell very slowly",
    "nor did Alice think it so very much out of the way",
    "she had plenty of time",
)
_DECODER: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
KINDS = ("bert", "llama", "mistral")
"""An encoder, a decoder with grouped queries, and one whose layers see a window that slides."""


def save_model(directory: Path, kind: str) -> Path:
    """Write a model and its tokenizer."""
    if kind == "bert":
        return save_masked_model(directory, "Bert", num_hidden_layers=NUM_LAYERS)
    torch.manual_seed(0)
    model: PreTrainedModel = (
        LlamaForCausalLM(LlamaConfig(**_DECODER))
        if kind == "llama"
        else MistralForCausalLM(MistralConfig(**_DECODER, sliding_window=5))
    )
    model.save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return directory


def save_small_config(directory: Path, vocab_size: int, **changes: Any) -> str:
    """Write the configuration of a BERT of half the depth and half the width; return its path."""
    BertConfig(
        vocab_size=vocab_size,
        hidden_size=WIDTH // 2,
        intermediate_size=24,
        num_hidden_layers=NUM_LAYERS // 2,
        num_attention_heads=HEADS,
        max_position_embeddings=32,
        **changes,
    ).save_pretrained(directory)
    return str(directory / "config.json")


def save_classifier(directory: Path, language_model: Path) -> Path:
    """Write a BERT of three classes, made of a language model, with its tokenizer."""
    shutil.copytree(language_model, directory, dirs_exist_ok=True)
    torch.manual_seed(1)
    model = BertForSequenceClassification.from_pretrained(directory, num_labels=3)
    with torch.no_grad():
        model.classifier.weight.normal_(std=0.5)
    model.save_pretrained(directory)
    return directory


def make_teacher(model: Path, kind: str, dtype: Any = "float32") -> Teacher:
    """Return the teacher of a saved model."""
    if kind == "bert":
        return masked_teacher(model, dtype)
    options = TeacherConfig(name=str(model), dtype=dtype, device="cpu")
    return SequenceClassifier(options) if kind == "classes" else TransformersTeacher(options)


def build_layers(
    directory: Path, model: Path, kind: str, dtype: str = "float32", **options: Any
) -> Store:
    """Build a small store of a model, with hidden states as the options say."""
    directory.mkdir(exist_ok=True)
    options["corpus"] = Corpus(paths=(write_corpus(directory / "corpus.jsonl", TEXTS),))
    teacher = make_teacher(model, kind, dtype)
    if kind == "bert":
        config = masked_config(directory, MaskedCapture(maskings=1), **options)
    elif kind == "classes":
        config = BuildConfig(
            output=directory / "store",
            task=ClassCapture(),
            windowing=Windowing(sequence_length=20, kind="truncate"),
            **options,
        )
    else:
        windowing = options.pop("windowing", Windowing(sequence_length=24))
        config = build_config(directory, windowing=windowing, selection=TopK(k=8), **options)
    return build(config, teacher).store
