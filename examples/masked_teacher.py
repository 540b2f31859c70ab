"""Give an encoder a masked-LM head, and train both on texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    get_linear_schedule_with_warmup,
)

from examples.mails import Mail

_BATCH_SIZE = 8
_LEARNING_RATE = 3e-4
_WARMUP = 0.1
_MASK_PROBABILITY = 0.3
"""Twice as much as usual, for the head has few texts to learn from."""


def saved_masked_lm(
    encoder: Path, mails: Sequence[Mail], directory: Path, *, most_tokens: int, epochs: int
) -> Path:
    """Return the directory of what `train_masked_lm` makes of mails, which may be there."""
    if not (directory / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        texts = [mail.text for mail in mails]
        model = train_masked_lm(encoder, tokenizer, texts, most_tokens=most_tokens, epochs=epochs)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return directory


def train_masked_lm(
    encoder: Path, tokenizer: Any, texts: Sequence[str], *, most_tokens: int, epochs: int
) -> Any:
    """Return a BERT with a masked-LM head, trained on the beginning of each text.

    The head's product with the vocabulary is with the word embeddings, and its other layers begin
    at random. Masks are fresh in each epoch. Only masked tokens go through the head.
    """
    torch.manual_seed(0)
    model = BertForMaskedLM.from_pretrained(encoder)
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=_MASK_PROBABILITY)
    read = [tokenizer(text, truncation=True, max_length=most_tokens) for text in texts]
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)
    steps = epochs * -(-len(read) // _BATCH_SIZE)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(_WARMUP * steps), steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(read)).tolist()
        for start in range(0, len(order), _BATCH_SIZE):
            batch = collate([read[place] for place in order[start : start + _BATCH_SIZE]])
            labels_BL = batch.pop("labels")
            hidden_BLD = model.bert(**batch).last_hidden_state
            is_masked_BL = labels_BL >= 0
            logits_NV = model.cls(hidden_BLD[is_masked_BL])
            loss = torch.nn.functional.cross_entropy(logits_NV, labels_BL[is_masked_BL])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return model.eval()
