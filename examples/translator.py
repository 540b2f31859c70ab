"""Make a translator from nothing: a tokenizer of both languages, and a Marian trained on pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    DataCollatorForSeq2Seq,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
    get_linear_schedule_with_warmup,
)

from examples.catalogues import Pair

MOST_TOKENS = 64
"""Of a source, and of a target with its start token."""
MOST_WRITTEN = 40
"""Of a translation."""
_BATCH_SIZE = 32
_POOL = 32
"""Batches whose pairs are sorted by length together."""
_LEARNING_RATE = 1e-3
_WARMUP = 0.1
_SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def pair_tokenizer(pairs: Sequence[Pair], vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of both languages, which puts its end after each text."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (text for one in pairs for text in (one.source, one.target))
    tokenizer.train_from_iterator(texts, trainer)
    end = _SPECIAL["eos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL)


def translator_config(tokenizer: Any, *, width: int, layers: int) -> MarianConfig:
    """Return the configuration of a Marian with so many layers in encoder and decoder."""
    of_both = {
        f"{part}_{name}": value
        for part in ("encoder", "decoder")
        for name, value in (("layers", layers), ("attention_heads", 4), ("ffn_dim", 4 * width))
    }
    return MarianConfig(
        vocab_size=len(tokenizer),
        d_model=width,
        max_position_embeddings=MOST_TOKENS,
        scale_embedding=True,
        # With the default, so narrow a model takes thousands of steps to look at its source.
        init_std=width**-0.5,
        dropout=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=None,
        decoder_start_token_id=tokenizer.pad_token_id,
        **of_both,
    )


def train_translator(
    config: MarianConfig, tokenizer: Any, pairs: Sequence[Pair], *, epochs: int
) -> Any:
    """Return a Marian that learned from nothing to write the targets of pairs."""
    torch.manual_seed(0)
    model = MarianMTModel(config)
    collate = DataCollatorForSeq2Seq(tokenizer, model)
    read = [
        tokenizer(one.source, text_target=one.target, truncation=True, max_length=MOST_TOKENS - 1)
        for one in pairs
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)
    steps = epochs * -(-len(read) // _BATCH_SIZE)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(_WARMUP * steps), steps)
    model.train()
    for epoch in range(epochs):
        losses = []
        for places in _batches([len(one["input_ids"]) for one in read]):
            batch = collate([read[place] for place in places])
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            losses.append(loss.item())
        mean = sum(losses) / len(losses)
        print(f"teacher, epoch {epoch + 1} of {epochs}: loss {mean:.2f}", flush=True)
    return model.eval()


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the places of texts of like length, in random order."""
    order = torch.randperm(len(lengths)).tolist()
    for start in range(0, len(order), _POOL * _BATCH_SIZE):
        pool = sorted(order[start : start + _POOL * _BATCH_SIZE], key=lengths.__getitem__)
        batches = [pool[at : at + _BATCH_SIZE] for at in range(0, len(pool), _BATCH_SIZE)]
        for number in torch.randperm(len(batches)).tolist():
            yield batches[number]
