"""Tiny masked language models with random weights, and real tokenizers of a tiny vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from softtargets.capture import BuildConfig, TeacherConfig, TopK, Windowing
from softtargets.tasks.masked_lm.masked_capture import MaskedCapture
from softtargets.tasks.masked_lm.masked_teacher import MaskedTeacher
from tests.fakes import TEXTS, build_config

FAMILIES = ("Bert", "DistilBert", "Roberta")
POSITIONS = 32
"""How many tokens each family has positions for."""
_SIZES: dict[str, dict[str, Any]] = {
    "Bert": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 0,
    },
    "DistilBert": {
        "dim": 32,
        "hidden_dim": 48,
        "n_layers": 2,
        "n_heads": 4,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 0,
    },
}
_SIZES["Roberta"] = _SIZES["Bert"] | {"max_position_embeddings": POSITIONS + 2, "pad_token_id": 1}


def word_pieces() -> PreTrainedTokenizerFast:
    """Return a WordPiece tokenizer as BERT has, trained on `TEXTS`."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **dict(zip(names, special, strict=True))
    )


def byte_pairs() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer as RoBERTa has, trained on `TEXTS`."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **dict(zip(names, special, strict=True))
    )


def save_masked_model(directory: Path, family: str, **changes: Any) -> Path:
    """Write a model of a family with random weights, and its tokenizer."""
    tokenizer = byte_pairs() if family == "Roberta" else word_pieces()
    sizes = _SIZES[family] | {"vocab_size": len(tokenizer) + 3} | changes
    config = getattr(transformers, f"{family}Config")(**sizes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForMaskedLM")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # As they are initialised, heads hardly tell one token from another.
            if parameter.ndim > 1:
                parameter.mul_(8)
            elif "bias" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def masked_teacher(directory: Path, dtype: Any = "float32") -> MaskedTeacher:
    """Return the teacher of a saved model."""
    return MaskedTeacher(TeacherConfig(name=str(directory), dtype=dtype, device="cpu"))


def masked_config(directory: Path, task: Any = None, **changes: Any) -> BuildConfig:
    """Return a small lossless build of `TEXTS` into `directory / "store"`."""
    defaults: dict[str, Any] = {
        "task": task or MaskedCapture(maskings=2),
        "windowing": Windowing(sequence_length=20),
        "values": "float32",
        "selection": TopK(k=8),
    }
    return build_config(directory, **(defaults | changes))
