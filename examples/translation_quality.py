"""Measure a saved translator: BLEU and chrF of what it writes, its size, and how fast it writes."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sacrebleu import corpus_bleu, corpus_chrf
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from examples.catalogues import Pair
from examples.commands import run_command
from examples.finetune import measure_size
from examples.translator import MOST_WRITTEN

_TIMED_PAIRS = 64
_TIMED_PASSES = 3


def measure_translator(
    directory: Path, held: Sequence[Pair], records: Path, place: Path
) -> dict[str, float]:
    """Return what a saved translator is like.

    Args:
        directory: of the translator.
        held: pairs that it has not seen.
        records: the file that has these.
        place: directory for what it writes.
    """
    place.mkdir(parents=True, exist_ok=True)
    figures: dict[str, float] = {}
    written = {
        name: translate(directory, records, beams, place / f"{name}.jsonl", len(held))
        for name, beams in (("greedy", 1), ("beams", 5))
    }
    references = [[one.target for one in held]]
    for metric, score in (("BLEU", corpus_bleu), ("chrF", corpus_chrf)):
        for name, texts in written.items():
            figures[f"{metric}, {name}"] = score(texts, references).score / 100
    model = AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
    speed = measure_speed(model, AutoTokenizer.from_pretrained(directory), held)
    return {**figures, **measure_size(directory, model), **speed}


def translate(directory: Path, records: Path, beams: int, output: Path, number: int) -> list[str]:
    """Return the translations of so many records; one that has no text is empty."""
    run_command(
        "generate", "--teacher", directory, "--dtype", "float32", "--input", records,
        "--text-field", "en", "--target-field", "de", "--num-beams", beams,
        "--max-new-tokens", MOST_WRITTEN, "--output", output,
    )  # fmt: skip
    found = [json.loads(line) for line in output.read_text().splitlines()]
    texts = {int(one["id"]): one["de"] for one in found}
    return [texts.get(place, "") for place in range(number)]


@torch.inference_mode()
def measure_speed(model: Any, tokenizer: Any, held: Sequence[Pair]) -> dict[str, float]:
    """Return how many texts and tokens a translator writes per second, by the likeliest token.

    It is the fastest of several passes over some sources, which a busy machine disturbs least.
    """
    sources = [one.source for one in held[:_TIMED_PAIRS]]
    inputs = tokenizer(sources, padding=True, return_tensors="pt", return_token_type_ids=False)
    seconds = []
    for _ in range(_TIMED_PASSES):
        started = time.perf_counter()
        written_NL = model.generate(
            **inputs, num_beams=1, do_sample=False, max_new_tokens=MOST_WRITTEN
        )
        seconds.append(time.perf_counter() - started)
    tokens = int((written_NL[:, 1:] != model.config.pad_token_id).sum())
    return {"texts/s": len(sources) / min(seconds), "tokens/s": tokens / min(seconds)}
