"""What a build costs beside the teacher's own forward pass: once, and with every token.

    python -m tests.benchmarks.overhead [--dtype bfloat16|float32]
        [--select hybrid|topk|threshold ...]

builds stores from SmolLM2-135M and two lengths of the Python language reference, in turn, and runs
the model's bare forward pass, logits included, over each batch right before it is scored. What the
two lengths differ by grows with the corpus; the rest is paid once a store, mostly for hashing the
weights. Packing and writing, which a thread does while the teacher reads on, is kept apart from the
bare forward pass, so that neither hides the other. Medians of the rounds; of the ratios, the lowest
and highest too. Several selections take turns in a round, and what selecting takes is printed
beside the first one's. Exits with 1 when the goal is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.table import Table

from softtargets.capture import (
    BuildConfig,
    Corpus,
    Hybrid,
    TeacherConfig,
    Threshold,
    TopK,
    TransformersTeacher,
    Windowing,
    building,
    units,
)
from softtargets.capture.keep.selection import Selection
from softtargets.cli.selection_options import selection_text
from softtargets.demo.smollm import teacher_directory
from tests.benchmarks.layouts import small_corpus

MOST_GROWING = 1.05
SELECTIONS: dict[str, Selection] = {"topk": TopK(), "hybrid": Hybrid(), "threshold": Threshold()}
BATCH_TOKENS = 2048
keeper = sys.modules["softtargets.capture.keep.keeper"]
PARTS = ("identity", "tokenise", "decoder", "head", "select", "pack and write", "wait for writing")


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
    writing = threading.Lock()
    """Held while a unit is packed and written."""

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        with self.writing:
            self.times.of("bare forward pass", self._forward)(input_ids_BL)
        hidden_BLD: torch.Tensor = self.times.of("decoder", super().hidden_states)(input_ids_BL)
        return hidden_BLD

    @torch.inference_mode()
    def _forward(self, input_ids_BL: torch.Tensor) -> None:
        self._model(input_ids=input_ids_BL, use_cache=False)

    def write(self, *args: Any) -> Any:
        """Pack and write a unit."""
        with self.writing:
            return self.times.of("pack and write", WRITE_UNIT)(*args)


WRITE_UNIT = units.write_unit


@contextmanager
def timed_parts(teacher: Watched) -> Iterator[Times]:
    """Time the parts of a build."""
    teacher.times = Times()
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, part in (
            (building, "describe_build", "identity"),
            (teacher, "logits", "head"),
            (keeper, "select", "select"),
            (building, "make_plan", "tokenise"),
            (units, "wait_for", "wait for writing"),
        ):
            patch.setattr(owner, name, teacher.times.of(part, getattr(owner, name)))
        patch.setattr(units, "write_unit", teacher.write)
        yield teacher.times


def measure(
    dtype: Any, names: Sequence[str], lengths: tuple[int, int], rounds: int
) -> dict[str, list[tuple[Times, Times]]]:
    """Return the seconds of every round's builds, a short and a long one, and of their parts.

    They are of each selection, by its name.
    """
    teacher = Watched(TeacherConfig(name=str(teacher_directory()), dtype=dtype))
    teacher.load()
    with tempfile.TemporaryDirectory() as name:
        corpora = [small_corpus(_directory(name, str(length)), length) for length in lengths]

        def seconds(corpus: Corpus, store: str, own: str) -> Times:
            config = BuildConfig(
                corpus=corpus,
                output=Path(name) / store,
                windowing=Windowing(sequence_length=512),
                selection=SELECTIONS[own],
                temperatures=(1.0, 2.0),
                unit_tokens=4096,
                batch_tokens=BATCH_TOKENS,
            )
            with timed_parts(teacher) as times:
                times.of("whole build", building.build)(config, teacher)
            times["whole build"] -= times["bare forward pass"]
            return times

        found: dict[str, list[tuple[Times, Times]]] = {own: [] for own in names}
        for own in names:
            # Everything is warm then.
            seconds(corpora[0], f"first-{own}", own)
        for number in range(rounds):
            for own in names:
                stores = (f"{length}-{number}-{own}" for length in ("short", "long"))
                short, long = map(seconds, corpora, stores, (own, own))
                found[own].append((short, long))
        return found


def _directory(parent: str, name: str) -> Path:
    directory = Path(parent) / name
    directory.mkdir()
    return directory


def split(short: Times, long: Times, part: str) -> tuple[float, float]:
    """Return a part's seconds that are paid once, and what grows, of the bare forward pass."""
    forward = "bare forward pass"
    growing = (long[part] - short[part]) / (long[forward] - short[forward])
    return short[part] - growing * short[forward], growing


def show(dtype: str, selection: Selection, results: list[tuple[Times, Times]]) -> bool:
    """Print both costs of every part, and return whether the goal is missed."""
    console = Console(highlight=False)
    threads = f"{torch.get_num_threads()} threads"
    table = Table(title=f"SmolLM2-135M, {dtype}, {threads}, {selection_text(selection)}")
    for column in ("part", "once, seconds", "with every token, of the bare forward pass", "range"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part in (*PARTS, "whole build"):
        once, growing = zip(*(split(*pair, part) for pair in results), strict=True)
        share = statistics.median(growing)
        spread = f"{min(growing):.1%} to {max(growing):.1%}"
        table.add_row(part, f"{statistics.median(once):.2f}", f"{share:.1%}", spread)
    console.print(table)
    holds = share <= MOST_GROWING
    console.print(
        f"{'met   ' if holds else 'MISSED'} every token takes at most {MOST_GROWING} times the "
        f"forward pass: {share:.3f}"
    )
    return not holds


def compare(results: dict[str, list[tuple[Times, Times]]]) -> None:
    """Print what selecting takes in the long builds, to the first selection in the same round."""
    first, *others = results
    for name in others:
        pairs = zip(results[name], results[first], strict=True)
        ratios = [own["select"] / its["select"] for (_, own), (_, its) in pairs]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"selecting, {name} to {first}: {statistics.median(ratios):.3f} ({spread})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--select", nargs="+", choices=list(SELECTIONS), default=["hybrid"])
    parser.add_argument("--tokens", type=int, nargs=2, default=(4096, 24_576))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    short, long = arguments.tokens
    results = measure(arguments.dtype, arguments.select, (short, long), arguments.rounds)
    missed = [show(arguments.dtype, SELECTIONS[name], own) for name, own in results.items()]
    compare(results)
    sys.exit(any(missed))


if __name__ == "__main__":
    main()
