"""What selecting takes, by itself, for teachers of small and large vocabularies.

    python -m tests.benchmarks.selecting [TEACHER...] [--positions 1024] [--rounds 15]

makes the logits of real text once and selects from them in the chunks of a build, each selection in
turn, at temperatures 1 and 2. It prints medians of the rounds, and of the ratios to top-k in the
same round with the lowest and highest. Numbers are CPU time of one thread, because other programs
may run beside it. By default the teachers are SmolLM2-135M (V = 49,152) and, where its packages
are, Gemma 3 270M (V = 262,144).
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from softtargets.capture import (
    Hybrid,
    Sampled,
    TeacherConfig,
    Threshold,
    TopK,
    TransformersTeacher,
    Windowing,
)
from softtargets.capture.keep.keeper import Keeper, Workspace
from softtargets.capture.keep.logit_chunks import SELECTING
from softtargets.capture.keep.selection import Keep, Selection
from softtargets.capture.segments import Segment, segments_of
from softtargets.demo.smollm import teacher_directory
from softtargets.fidelity.sample import TeacherSample
from softtargets.window import TokenWindow
from tests.benchmarks.layouts import small_corpus
from tests.trial.gemma import gemma_directory, parts

GRID = (1.0, 2.0)
LENGTH = 129
SELECTIONS: dict[str, Selection] = {
    "topk": TopK(),
    "threshold": Threshold(),
    "hybrid": Hybrid(),
    "sampled": Sampled(),
}


@dataclass(frozen=True)
class Logits:
    """What a teacher said of some text, in the chunks in which a build selects."""

    segments: list[Segment]
    chunks: list[tuple[slice, torch.Tensor]]
    workspace: Workspace

    @classmethod
    def make(cls, teacher: TransformersTeacher, num_positions: int) -> Logits:
        """Run a loaded teacher over the first windows of the text."""
        windows = list(itertools.islice(read_windows(teacher), num_positions // (LENGTH - 1)))
        sample = TeacherSample.read(teacher, windows)
        with torch.inference_mode():
            chunks = [
                (rows, logits_CV.clone())
                for rows, logits_CV in teacher.chunks(sample.hidden_ND, SELECTING)
            ]
        return cls(segments_of(*windows), chunks, Workspace())

    @torch.inference_mode()
    def seconds(self, selection: Selection) -> float:
        """Return the CPU time that selecting takes for a position."""
        keep = Keep(selection=selection, temperatures=GRID)
        keeper = Keeper(keep, self.segments, torch.device("cpu"), self.workspace)
        started = time.process_time()
        for rows, logits_CV in self.chunks:
            keeper.add(rows, logits_CV)
        last, _ = self.chunks[-1]
        return (time.process_time() - started) / int(last.stop)


def read_windows(teacher: TransformersTeacher) -> list[TokenWindow]:
    """Return windows of the language reference that all have as many targets."""
    with tempfile.TemporaryDirectory() as name:
        documents = small_corpus(Path(name), 40_000).documents()
        windowing = Windowing(sequence_length=LENGTH)
        found = list(windowing.windows(documents, teacher.tokenizer, Counter()))
    return [window for window in found if len(window) == LENGTH]


def measure(logits: Logits, num_rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every round by selection, in an order that differs by round."""
    found: dict[str, list[float]] = {name: [] for name in SELECTIONS}
    for number in range(-1, num_rounds):
        for name in random.Random(number).sample(list(SELECTIONS), len(SELECTIONS)):
            seconds = logits.seconds(SELECTIONS[name])
            if number >= 0:
                found[name].append(seconds)
    return found


def show(title: str, found: dict[str, list[float]]) -> None:
    """Print what each selection takes, and its ratio to the first."""
    print(title)
    first = next(iter(found.values()))
    for name, own in found.items():
        ratios = [mine / its for mine, its in zip(own, first, strict=True)]
        print(
            f"  {name:10} {1e6 * statistics.median(own):8.1f} us a position, "
            f"{statistics.median(ratios):.3f} of topk ({min(ratios):.3f} to {max(ratios):.3f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teachers", nargs="*", type=Path)
    parser.add_argument("--positions", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    by_default = [teacher_directory(), *([gemma_directory()] if len(parts()) == 4 else [])]
    for directory in arguments.teachers or by_default:
        teacher = TransformersTeacher(TeacherConfig(name=str(directory)))
        teacher.load()
        logits = Logits.make(teacher, arguments.positions)
        title = f"{directory.name}, V = {teacher.vocab_size:,}, {logits.chunks[0][1].dtype}"
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        show(title, measure(logits, arguments.rounds))
        torch.set_num_threads(num_threads)


if __name__ == "__main__":
    main()
