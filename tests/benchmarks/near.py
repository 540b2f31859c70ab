"""What students near the teacher lose by each kind of target, on repeated epochs of little text.

    python -m tests.benchmarks.near docs/fidelity
    python -m tests.benchmarks.near near-large --device cuda --large

A student is SmolLM2-135M without layers 26 and 27 of 30, and its last two layers are trained on. A
seed has its own text, order and draws, and all methods of a seed share the text, the order and the
first weights. So their differences are paired. A seed's students see its text again and again, and
are looked at after 1, 4, 8 and 16 epochs.

It writes near.json and near.md after every seed, and begins no seed that might end after
`--minutes`. Run again, it goes on with the seeds that are missing.

`--large` sets more text, more methods and more layers to train. Options that are given hold in
either form.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from softtargets.capture import Corpus, TeacherConfig, TransformersTeacher, Windowing
from softtargets.demo.reference_text import write_corpus
from softtargets.demo.smollm import teacher_directory
from softtargets.fidelity.sample import TeacherSample
from softtargets.window import TokenWindow
from tests.benchmarks.near_methods import FULL, Method, measure_sizes, parse_method, targets_by
from tests.benchmarks.near_students import CutTeacher, Recipe, Text, mean_kl, train
from tests.benchmarks.near_tables import tables

QUICK: dict[str, Any] = {
    "methods": (
        FULL, "top 6", "top 16", "independent 8", "independent 17", "independent 32",
        "systematic 17", "threshold 9", "threshold 17", "threshold 24", "top 16 + 16",
    ),
    "seeds": 16,
    "windows": 2,
    "held_out": 6,
    "sequence_length": 64,
    "batch_size": 1,
    "first_trained": 26,
    "size_positions": 1024,
    "minutes": 20.0,
}  # fmt: skip
LARGE: dict[str, Any] = {
    "methods": (
        *QUICK["methods"], "top 4", "top 32", "top 64", "independent 12", "independent 64",
        "systematic 8", "systematic 32", "threshold 8", "threshold 32", "threshold 48", "top 8 + 8",
    ),
    "seeds": 8,
    "windows": 16,
    "held_out": 48,
    "sequence_length": 256,
    "batch_size": 4,
    "first_trained": 0,
    "size_positions": 16_384,
    "minutes": 240.0,
}  # fmt: skip

SIZED_LENGTH = 128
"""Tokens of the windows that sizes are measured on: those of the other tables of fidelity."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options, with those of the form where none is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--teacher", help="directory of a model like Llama")
    parser.add_argument("--input", type=Path, help="JSON lines with text to train on")
    parser.add_argument("--held-out-input", type=Path, help="the same, to measure on")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--dropped", type=int, nargs="+", default=[26, 27])
    parser.add_argument("--first-trained", type=int, help="layers before it stay as they are")
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--first-seed", type=int, default=0)
    for name in ("seeds", "windows", "held-out", "sequence-length", "batch-size", "size-positions"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--minutes", type=float)
    options = parser.parse_args(arguments)
    for name, value in (LARGE if options.large else QUICK).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def read_windows(
    teacher: TransformersTeacher, path: Path, sequence_length: int
) -> list[TokenWindow]:
    """Return the windows of a file that have the full length, shuffled."""
    windowing = Windowing(sequence_length=sequence_length)
    documents = Corpus(paths=(path,)).documents()
    found = [
        window
        for window in windowing.windows(documents, teacher.tokenizer, Counter())
        if len(window) == sequence_length
    ]
    if not found:
        raise SystemExit(f"{path} has no document of {sequence_length} tokens")
    order = np.random.default_rng(0).permutation(len(found))
    return [found[at] for at in order]


class Run:
    """Students of one seed after another, and what they learned."""

    def __init__(self, options: argparse.Namespace, inputs: tuple[Path, Path]) -> None:
        self.options = options
        self.methods = [parse_method(one) for one in options.methods]
        directory = options.teacher or str(teacher_directory())
        self.teacher = TransformersTeacher(
            TeacherConfig(name=directory, dtype="float32", device=options.device)
        )
        self.teacher.load()
        self.cut = CutTeacher.load(
            directory, options.dropped, options.first_trained, self.teacher.device
        )
        self.recipe = Recipe(
            epochs=tuple(options.epochs),
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
        )
        length = options.sequence_length
        self.pool, others = (read_windows(self.teacher, path, length) for path in inputs)
        if (options.first_seed + options.seeds) * options.windows > len(self.pool):
            raise SystemExit(f"{len(self.pool)} windows of text are too few for these seeds")
        self.sized = read_windows(self.teacher, inputs[0], SIZED_LENGTH)
        self.held_out = self._text(others[: options.held_out], is_held_out=True)

    def _text(self, windows: Sequence[TokenWindow], *, is_held_out: bool = False) -> Text:
        sample = TeacherSample.read(self.teacher, windows)
        return Text.of(sample, self.cut.read(windows), keep_teacher=is_held_out)

    def sizes(self) -> dict[str, Any]:
        """Return the size of a target by method."""
        count = math.ceil(self.options.size_positions / (SIZED_LENGTH - 1))
        sample = TeacherSample.read(self.teacher, self.sized[:count])
        found = measure_sizes(self.methods, sample)
        return {
            name: {
                "entries": size.entries,
                "bytes_per_target": size.bytes_per_target,
                "is_estimate": size.is_estimate,
            }
            for name, size in found.items()
        }

    def start_kl(self) -> float:
        """Return the KL of the student that nobody has trained."""
        return mean_kl(self.cut, self.cut.top, self.held_out)

    def seed(self, seed: int) -> dict[str, list[float]]:
        """Return the held-out KL of a seed's students after each of the epochs, by method."""
        size = self.options.windows
        text = self._text(self.pool[seed * size : (seed + 1) * size])
        return {method.name: self.student(method, text, seed) for method in self.methods}

    def student(self, method: Method, text: Text, seed: int) -> list[float]:
        """Return the held-out KL of one student after each of the epochs."""
        targets = targets_by(method, text.sample, seed)
        found = list(train(self.cut, text, targets, self.held_out, self.recipe, seed))
        print(f"seed {seed}, {method.name}: {' '.join(f'{one:.4f}' for one in found)}", flush=True)
        return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure seed by seed, and write what is known after each."""
    options = parse(arguments)
    started = time.monotonic()
    with TemporaryDirectory() as name:
        inputs = write_corpus(Path(name))
        given = options.input or inputs[0], options.held_out_input or inputs[1]
        run = Run(options, given)
    found = begin(run, options)
    longest = 0.0
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        began = time.monotonic()
        if str(seed) in found["seeds"]:
            continue
        if began + longest - started > 60 * options.minutes:
            print(f"seed {seed} might end after {options.minutes:g} minutes: it is omitted")
            break
        found["seeds"][str(seed)] = run.seed(seed)
        longest = max(longest, time.monotonic() - began)
        write(found, options.output)
    print(tables(found))


def begin(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Return what an earlier run with these options found, or a new one before its first seed."""
    left_out = {"output", "teacher", "input", "held_out_input", "minutes", "seeds", "first_seed"}
    setting = {name: value for name, value in vars(options).items() if name not in left_out}
    setting |= {"torch": torch.__version__, "teacher": run.teacher.name}
    earlier = options.output / "near.json"
    if earlier.exists():
        found: dict[str, Any] = json.loads(earlier.read_text())
        if found["setting"] != json.loads(json.dumps(setting)):
            raise SystemExit(f"{earlier} is of other options: move it away")
        return found
    found = {"setting": setting, "start_kl": run.start_kl(), "sizes": run.sizes(), "seeds": {}}
    write(found, options.output)
    return found


def write(found: dict[str, Any], output: Path) -> None:
    """Write what is known as JSON, and as tables if there is a seed."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "near.json").write_text(json.dumps(found, indent=1) + "\n")
    if found["seeds"]:
        (output / "near.md").write_text(tables(found))


if __name__ == "__main__":
    main()
