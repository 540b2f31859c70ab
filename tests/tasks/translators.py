"""Tiny encoder-decoders with random weights, a real tokenizer of a tiny vocabulary, and pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from softtargets.capture import BuildConfig, Corpus, TeacherConfig, TopK, Windowing
from softtargets.tasks.seq2seq.seq2seq_capture import Seq2SeqCapture
from softtargets.tasks.seq2seq.seq2seq_teacher import Seq2SeqTeacher
from tests.fakes import TEXTS, build_config

TARGETS = (
    "Alice wurde es langsam leid, neben ihrer Schwester am Ufer zu sitzen.",
    "So fragte sie sich, ob sie aufstehen sollte.",
    "Daran war nichts so sehr merkwürdig.",
    "Im nächsten Augenblick sprang Alice ihm nach, ohne zu bedenken, wie sie herauskäme.",
    "Entweder war der Brunnen sehr tief, oder sie fiel sehr langsam.",
)
PAIRS = tuple(zip(TEXTS, TARGETS, strict=True))
POSITIONS = 64
"""How many tokens the families have positions for that count them."""
_SHARED = {"d_model": 32, "pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0}
_LAYERS = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": POSITIONS,
}
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Marian": ("MarianMTModel", _SHARED | _LAYERS | {"decoder_start_token_id": 1}),
    "Bart": ("BartForConditionalGeneration", _SHARED | _LAYERS | {"decoder_start_token_id": 2}),
    "T5": (
        "T5ForConditionalGeneration",
        _SHARED
        | {"d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 1},
    ),
}
FAMILIES = tuple(_FAMILIES)


def save_pairs(path: Path, pairs: Sequence[tuple[str, str]] = PAIRS) -> Path:
    """Write pairs as JSON lines, with the fields en and de."""
    lines = (json.dumps({"en": source, "de": target}) + "\n" for source, target in pairs)
    path.write_text("".join(lines))
    return path


def pair_tokenizer(template: str = "$A </s>") -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer, trained on both languages."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((*TEXTS, *TARGETS), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = ("bos_token", "pad_token", "eos_token", "unk_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **dict(zip(names, special, strict=True))
    )


def save_translator(
    directory: Path, family: str = "Marian", template: str | None = None, **changes: Any
) -> Path:
    """Write a model of a family with random weights, and its tokenizer."""
    if template is None:
        template = "<s> $A </s>" if family == "Bart" else "$A </s>"
    tokenizer = pair_tokenizer(template)
    name, sizes = _FAMILIES[family]
    kind: Any = getattr(transformers, name)
    config = kind.config_class(**(sizes | {"vocab_size": len(tokenizer) + 3} | changes))
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # As they are initialised, heads hardly tell one token from another.
            if parameter.ndim > 1 and family != "T5":
                parameter.mul_(8)
            elif "bias" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def translator(directory: Path, dtype: Any = "float32") -> Seq2SeqTeacher:
    """Return the teacher of a saved model."""
    return Seq2SeqTeacher(TeacherConfig(name=str(directory), dtype=dtype, device="cpu"))


def pair_config(directory: Path, task: Any = None, **changes: Any) -> BuildConfig:
    """Return a small lossless build of `PAIRS` into `directory / "store"`."""
    defaults: dict[str, Any] = {
        "corpus": Corpus(paths=(save_pairs(directory / "pairs.jsonl"),), text_field="en"),
        "task": task or Seq2SeqCapture(target_field="de"),
        "windowing": Windowing(sequence_length=64),
        "values": "float32",
        "selection": TopK(k=8),
    }
    return build_config(directory, **(defaults | changes))
