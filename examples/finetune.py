"""Fine-tune models to classify mails by plain transformers, and measure what came of it.

`examples.classification` and `examples.tinybert` make their teachers so. `examples.distilbert` does
it to masked language models, which is what these are pretrained for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    get_linear_schedule_with_warmup,
)

from examples.mails import NAMES, Mail

BATCH_SIZE = 32
_WARMUP = 0.1
"""Share of the steps."""
_TIMED_MAILS = 64
_TIMED_PASSES = 3

Inputs = Mapping[str, torch.Tensor]


def batches(
    tokenizer: Any,
    mails: Sequence[Mail],
    order: Sequence[int],
    most_tokens: int,
    batch_size: int = BATCH_SIZE,
) -> Iterator[tuple[Inputs, torch.Tensor]]:
    """Yield what a model reads of some mails at a time, their first tokens, and their classes."""
    for start in range(0, len(order), batch_size):
        own = [mails[place] for place in order[start : start + batch_size]]
        texts = [mail.text for mail in own]
        inputs = tokenizer(
            texts, truncation=True, max_length=most_tokens, padding=True, return_tensors="pt"
        )
        yield inputs, torch.tensor([mail.label for mail in own])


def fine_tune(
    start: Path,
    tokenizer: Any,
    mails: Sequence[Mail],
    *,
    most_tokens: int,
    seed: int,
    epochs: int,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = 1e-4,
) -> Any:
    """Return a classifier of mails that begins as a saved model of any kind.

    Its output layer begins at random, as the seed says. The learning rate rises over the first
    tenth of the steps and falls to zero.
    """
    torch.manual_seed(seed)
    names = dict(enumerate(NAMES))
    model = AutoModelForSequenceClassification.from_pretrained(start, id2label=names)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    steps = epochs * -(-len(mails) // batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(_WARMUP * steps), steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(mails)).tolist()
        for inputs, labels in batches(tokenizer, mails, order, most_tokens, batch_size):
            loss = torch.nn.functional.cross_entropy(model(**inputs).logits, labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return model.eval()


def saved_classifier(
    start: Path, mails: Sequence[Mail], directory: Path, *, most_tokens: int, **options: Any
) -> Path:
    """Return the directory of what `fine_tune` makes of a saved model, which may be there."""
    if not (directory / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(start)
        model = fine_tune(start, tokenizer, mails, most_tokens=most_tokens, **options)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return directory


def measure_classifier(
    directory: Path, mails: Sequence[Mail], most_tokens: int
) -> dict[str, float]:
    """Return what a saved classifier is like: its quality, size and speed."""
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return {
        **measure_quality(model, tokenizer, mails, most_tokens),
        **measure_size(directory, model),
        **measure_speed(model, tokenizer, mails, most_tokens),
    }


@torch.inference_mode()
def measure_quality(
    model: Any, tokenizer: Any, mails: Sequence[Mail], most_tokens: int
) -> dict[str, float]:
    """Return the accuracy of a classifier, and the mean of the F1 scores of both classes."""
    model.eval()
    answers, labels = [], []
    for inputs, own in batches(tokenizer, mails, range(len(mails)), most_tokens):
        answers.append(model(**inputs).logits.argmax(dim=1))
        labels.append(own)
    return quality_of(torch.cat(answers), torch.cat(labels))


def quality_of(answer_N: torch.Tensor, label_N: torch.Tensor) -> dict[str, float]:
    """Return accuracy and macro-F1 of answers; a class that nobody names or is has F1 0."""
    scores = []
    for name in range(len(NAMES)):
        both = ((answer_N == name) & (label_N == name)).sum()
        named = (answer_N == name).sum() + (label_N == name).sum()
        scores.append(float(2 * both / named.clamp(min=1)))
    return {
        "accuracy": float((answer_N == label_N).float().mean()),
        "macro-F1": sum(scores) / len(scores),
    }


@torch.inference_mode()
def measure_speed(
    model: Any, tokenizer: Any, mails: Sequence[Mail], most_tokens: int
) -> dict[str, float]:
    """Return how many texts and tokens a model reads per second, padding not counted.

    It is the fastest of several passes over some mails, which a busy machine disturbs least.
    """
    model.eval()
    timed = mails[:_TIMED_MAILS]
    order = range(len(timed))
    read = [inputs for inputs, _ in batches(tokenizer, timed, order, most_tokens)]
    seconds = []
    for _ in range(_TIMED_PASSES):
        started = time.perf_counter()
        for inputs in read:
            model(**inputs)
        seconds.append(time.perf_counter() - started)
    tokens = sum(int(inputs["attention_mask"].sum()) for inputs in read)
    return {"texts/s": len(timed) / min(seconds), "tokens/s": tokens / min(seconds)}


def measure_size(directory: Path, model: Any) -> dict[str, float]:
    """Return the parameters of a model, and the bytes of its weights in a directory."""
    files = directory.glob("*.safetensors")
    return {
        "parameters": model.num_parameters(),
        "bytes on disk": sum(path.stat().st_size for path in files),
    }
