"""What a build costs beside the teacher's own forward pass.

    python -m tests.benchmarks.overhead [--dtype bfloat16|float32] [--select hybrid|topk]

builds a store from SmolLM2-135M and the Python language reference, and runs the model's bare
forward pass, logits included, over each batch right before it is scored; medians of the rounds.
What makes the identity, which is mostly hashing the weights, is shown but not counted: it takes
the same time for a corpus of any size. Exits with 1 when the goal is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.table import Table

from softtargets.capture import (
    BuildConfig,
    Hybrid,
    TeacherConfig,
    TopK,
    TransformersTeacher,
    Windowing,
)
from softtargets.capture.selection import Selection
from softtargets.cli.selection import selection_text
from softtargets.demo.teacher import teacher_directory
from tests.benchmarks.layouts import small_corpus

MOST_OVERHEAD = {"float32": 1.05, "bfloat16": 1.08}
SELECTIONS: dict[str, Selection] = {"topk": TopK(), "hybrid": Hybrid()}
BATCH_TOKENS = 2048
score = sys.modules["softtargets.capture.score"]
units = sys.modules["softtargets.capture.units"]
builds = sys.modules["softtargets.capture.build"]
"""The module: the package has a function of the same name."""
PARTS = ("tokenise", "decoder", "head", "select", "pack and write", "wait for writing")


class Times(Counter[str]):
    """Seconds by name."""

    def of(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the same and is timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self[name] += time.perf_counter() - started  # type: ignore[assignment]

        return timed


class Watched(TransformersTeacher):
    """A teacher that runs its bare forward pass over every batch before it is scored."""

    times = Times()

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        self.times.of("bare forward pass", self._forward)(input_ids_BL)
        hidden_BLD: torch.Tensor = self.times.of("decoder", super().hidden_states)(input_ids_BL)
        return hidden_BLD

    @torch.inference_mode()
    def _forward(self, input_ids_BL: torch.Tensor) -> None:
        self._model(input_ids=input_ids_BL, use_cache=False)


@contextmanager
def timed_parts(teacher: Watched) -> Iterator[Times]:
    """Time the parts of a build."""
    teacher.times = Times()
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, part in (
            (builds, "describe_build", "identity"),
            (teacher, "logits", "head"),
            (score, "select", "select"),
            (builds, "make_plan", "tokenise"),
            (units, "write_unit", "pack and write"),
            (units, "wait_for", "wait for writing"),
        ):
            patch.setattr(owner, name, teacher.times.of(part, getattr(owner, name)))
        yield teacher.times


def measure(dtype: Any, selection: Selection, num_tokens: int, rounds: int) -> list[Times]:
    """Return the seconds of every round's build and of its parts."""
    teacher = Watched(TeacherConfig(name=str(teacher_directory()), dtype=dtype))
    teacher.load()
    results = []
    with tempfile.TemporaryDirectory() as name:
        corpus = small_corpus(Path(name), num_tokens)
        for number in range(rounds + 1):
            config = BuildConfig(
                corpus=corpus,
                output=Path(name) / f"store-{number}",
                windowing=Windowing(sequence_length=512),
                selection=selection,
                temperatures=(1.0, 2.0),
                unit_tokens=4096,
                batch_tokens=BATCH_TOKENS,
            )
            with timed_parts(teacher) as times:
                times.of("whole build", builds.build)(config, teacher)
            times["whole build"] -= times["bare forward pass"] + times["identity"]
            results.append(times)
    # The first one warmed everything up.
    return results[1:]


def show(dtype: str, selection: Selection, results: list[Times]) -> bool:
    console = Console(highlight=False)
    threads = f"{torch.get_num_threads()} threads"
    table = Table(title=f"SmolLM2-135M, {dtype}, {threads}, {selection_text(selection)}")
    for column in ("part", "seconds", "of the bare forward pass"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part in ("bare forward pass", "identity", *PARTS, "whole build"):
        seconds = statistics.median(times[part] for times in results)
        share = statistics.median(times[part] / times["bare forward pass"] for times in results)
        table.add_row(part, f"{seconds:.2f}", f"{share:.1%}")
    console.print(table)
    holds = share <= MOST_OVERHEAD[dtype]
    console.print(
        f"{'met   ' if holds else 'MISSED'} a build takes at most {MOST_OVERHEAD[dtype]} times the "
        f"forward pass: {share:.3f}"
    )
    return not holds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=list(MOST_OVERHEAD), default="bfloat16")
    parser.add_argument("--select", choices=list(SELECTIONS), default="topk")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    dtype, selection = arguments.dtype, SELECTIONS[arguments.select]
    results = measure(dtype, selection, arguments.tokens, arguments.rounds)
    sys.exit(show(dtype, selection, results))


if __name__ == "__main__":
    main()
