"""What the loss is for the teacher as its own student, and for a student that knows nothing.

    python -m tests.benchmarks.values [--tokens 4096]

builds stores of several kinds from SmolLM2-135M in float32 and the Python language reference, and
prints `distillation_loss` beside the KL of the whole distributions, T^2 included. Each is the mean
over windows with its standard error.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from softtargets import Store, collate, distillation_loss, student_inputs
from softtargets.capture import (
    BuildConfig,
    Corpus,
    Hybrid,
    Sampled,
    TeacherConfig,
    TopK,
    TransformersTeacher,
    Windowing,
    build,
)
from softtargets.capture.keep.selection import Selection
from softtargets.demo.smollm import teacher_directory
from tests.benchmarks.layouts import small_corpus

STORES: tuple[tuple[str, Selection, tuple[float, ...]], ...] = (
    ("head and draws, T = 1 and 2", Hybrid(), (1.0, 2.0)),
    ("head and draws, T = 1", Hybrid(), (1.0,)),
    ("draws alone, T = 1", Sampled(), (1.0,)),
    ("top-k 64, T = 1 and 2", TopK(), (1.0, 2.0)),
)


def build_store(
    corpus: Corpus, output: Path, selection: Selection, grid: tuple[float, ...]
) -> Store:
    config = BuildConfig(
        corpus=corpus,
        output=output,
        windowing=Windowing(sequence_length=256),
        selection=selection,
        temperatures=grid,
    )
    teacher = TransformersTeacher(TeacherConfig(name=str(teacher_directory()), dtype="float32"))
    return build(config, teacher).store


def beginner() -> PreTrainedModel:
    """Return a student of one narrow layer with random weights."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(teacher_directory())
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = 1, 64, 128
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 4, 2, 16
    student: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    student.eval()
    return student


@torch.no_grad()
def values(
    store: Store, teacher: PreTrainedModel, student: PreTrainedModel, temperature: float
) -> tuple[list[float], list[float]]:
    """Return the loss of every window, and the KL of the whole distributions."""
    losses, divergences = [], []
    for window in store:
        batch = collate([window])
        inputs, places = student_inputs(batch), batch["target_mask"]
        logits = student(**inputs).logits
        losses.append(float(distillation_loss(logits, batch, temperature)))
        own, other = (
            (one[places].double() / temperature).log_softmax(dim=-1)
            for one in (logits, teacher(**inputs).logits)
        )
        whole = functional.kl_div(own, other, reduction="batchmean", log_target=True)
        divergences.append(temperature**2 * float(whole))
    return losses, divergences


def text(numbers: Sequence[float]) -> str:
    """Return the mean with its standard error."""
    found = torch.tensor(numbers)
    return f"{found.mean():.5f} +- {found.std() / len(found) ** 0.5:.5f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    arguments = parser.parse_args()
    teacher = AutoModelForCausalLM.from_pretrained(teacher_directory(), dtype=torch.float32).eval()
    students = {"the teacher": teacher, "a beginner": beginner()}
    table = Table("store", "T", "student", "loss", "whole KL")
    with tempfile.TemporaryDirectory() as name:
        corpus = small_corpus(Path(name), arguments.tokens)
        for number, (what, selection, grid) in enumerate(STORES):
            store = build_store(corpus, Path(name) / str(number), selection, grid)
            for temperature in grid:
                for who, student in students.items():
                    losses, divergences = values(store, teacher, student, temperature)
                    row = (what, f"{temperature:g}", who, text(losses), text(divergences))
                    table.add_row(*row)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
