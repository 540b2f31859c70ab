"""Resident memory of planning and building a corpus, and one ten times as long.

    python -m tests.benchmarks.memory

Every figure is the most that a process of its own had resident. The teacher has SmolLM2-135M's
tokenizer and vocabulary, and one narrow layer, and units are small: a million tokens take ten
minutes, and the shorter corpus too has several units, of which one is written while the next is
read.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from softtargets.capture import (
    BuildConfig,
    Corpus,
    TeacherConfig,
    TransformersTeacher,
    build,
)
from softtargets.capture.identity import describe_build
from softtargets.capture.planning import make_plan
from softtargets.demo.smollm import teacher_directory
from softtargets.engines import InProcess
from softtargets.store.writer import StoreWriter

MOST_GROWTH = 1.05
TOKENS_A_WORD = 1.4
UNIT_TOKENS = 16_384


def write_text(path: Path, num_tokens: int) -> Corpus:
    """Write about so many tokens of words of the Python language reference, no window twice."""
    rng = random.Random(0)
    words = " ".join(topics.values()).split()
    with open(path, "w") as file:
        for _ in range(max(1, round(num_tokens / TOKENS_A_WORD / 2_000))):
            text = " ".join(rng.choices(words, k=2_000)).replace("\\", "/").replace('"', "'")
            file.write(f'{{"text": "{text}"}}\n')
    return Corpus(paths=(path,))


def save_teacher(directory: Path) -> None:
    """Save a random teacher of one narrow layer with SmolLM2-135M's tokenizer and vocabulary."""
    config = AutoConfig.from_pretrained(teacher_directory())
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = 1, 64, 128
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 4, 2, 16
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(directory)
    AutoTokenizer.from_pretrained(teacher_directory()).save_pretrained(directory)


def plan(directory: Path, corpus: Corpus) -> int:
    teacher = TransformersTeacher(TeacherConfig(name=str(directory / "teacher")))
    output = directory / f"{Path(corpus.name).stem}-plan"
    config = BuildConfig(corpus=corpus, output=output, unit_tokens=UNIT_TOKENS)
    with StoreWriter.hold(output, describe_build(config, teacher)) as writer:
        return make_plan(config, teacher, writer, InProcess()).num_tokens


def build_all(directory: Path, corpus: Corpus) -> int:
    teacher = TransformersTeacher(TeacherConfig(name=str(directory / "teacher")))
    output = directory / f"{Path(corpus.name).stem}-store"
    config = BuildConfig(
        corpus=corpus, output=output, temperatures=(1.0, 2.0), unit_tokens=UNIT_TOKENS
    )
    return build(config, teacher).store.manifest.corpus["tokens"]


def measure(call: Callable[..., int], *arguments: Any) -> tuple[int, float]:
    """Return what a call returns and the most memory, in MB, of the process it ran in."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found: tuple[int, float] = pool.apply(_call, (call, arguments))
        return found


def _call(call: Callable[..., int], arguments: tuple[Any, ...]) -> tuple[int, float]:
    result = call(*arguments)
    return result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build-tokens", type=int, default=100_000)
    parser.add_argument("--plan-tokens", type=int, default=1_000_000)
    arguments = parser.parse_args()
    table = Table(title="Most resident memory")
    for column in ("what", "tokens", "MB", "tokens", "MB", "growth"):
        table.add_column(column, justify="left" if column == "what" else "right")
    missed = False
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        save_teacher(directory / "teacher")
        for what, call, num_tokens in (
            ("plan", plan, arguments.plan_tokens),
            ("build", build_all, arguments.build_tokens),
        ):
            cells, sizes = [], []
            for times in (1, 10):
                corpus = write_text(directory / f"{what}-{times}.jsonl", times * num_tokens)
                tokens, megabytes = measure(call, directory, corpus)
                sizes.append(megabytes)
                cells += [f"{tokens:,}", f"{megabytes:,.0f}"]
            growth = sizes[1] / sizes[0]
            missed |= growth > MOST_GROWTH
            table.add_row(what, *cells, f"{growth:.3f}x")
    console = Console(highlight=False)
    console.print(table)
    verdict = "MISSED" if missed else "met   "
    console.print(f"{verdict} at most {MOST_GROWTH}x for a corpus ten times as long")
    sys.exit(missed)


if __name__ == "__main__":
    main()
