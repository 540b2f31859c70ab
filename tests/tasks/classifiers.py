"""Tiny models that classify, with random weights, as transformers saves them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from softtargets.capture import BuildConfig, Corpus, Windowing
from softtargets.tasks.classification.class_capture import ClassCapture
from tests.fakes import byte_tokenizer

NAMES = ("question", "answer", "remark")
WORDS = ("who", "what", "is", "it", "was", "the", "cat", "dog", "##s", "##ed", "walk", "so", ".")
TEXTS = (
    "who is it",
    "the cat walked so",
    "what was the dog",
    "it is so",
    "the cats walked . the dogs walked . so it was .",
    "dog",
    "who walked the dogs so",
)
NUM_POSITIONS = 24


def word_tokenizer(*, has_types: bool = True) -> PreTrainedTokenizerFast:
    """Return a tokenizer of words and their endings, with the special tokens of BERT."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    vocab = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if has_types else [])]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=names,
    )


def save_classifier(
    directory: Path, architecture: str = "BertForSequenceClassification", **changes: Any
) -> Path:
    """Save a tiny model of a class of transformers with its tokenizer, and return where."""
    torch.manual_seed(0)
    is_llama = architecture.startswith("Llama")
    tokenizer = (
        byte_tokenizer() if is_llama else word_tokenizer(has_types="Distil" not in architecture)
    )
    if is_llama:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(7)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 64 if is_llama else NUM_POSITIONS,
        "pad_token_id": tokenizer.pad_token_id,
        "id2label": dict(enumerate(NAMES)),
        "label2id": {name: number for number, name in enumerate(NAMES)},
        "initializer_range": 0.5,
    }
    if "Distil" in architecture:
        sizes |= {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2}
    model_class = getattr(transformers, architecture)
    model_class(model_class.config_class(**(sizes | changes))).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """Write records as lines of JSON."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def labelled_records() -> list[dict[str, Any]]:
    """Return texts with labels by name, by number, and with none."""
    labels: tuple[Any, ...] = ("question", 1, None)
    return [{"text": text, "kind": labels[place % 3]} for place, text in enumerate(TEXTS)]


def class_config(
    directory: Path, records: Iterable[dict[str, Any]] | None = None, **changes: Any
) -> BuildConfig:
    """Return a build of labelled texts in several units."""
    path = write_records(
        directory / "corpus.jsonl", labelled_records() if records is None else records
    )
    defaults: dict[str, Any] = {
        "corpus": Corpus(paths=(path,)),
        "output": directory / "store",
        "task": ClassCapture(label_field="kind"),
        "windowing": Windowing(kind="truncate", sequence_length=12),
        "unit_tokens": 16,
        "batch_tokens": 40,
    }
    return BuildConfig(**(defaults | changes))
