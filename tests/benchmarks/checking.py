"""What checking the values of columns costs, beside reading them in batches.

    python -m tests.benchmarks.checking [--windows 512] [--rounds 15]

captures windows of 512 real tokens of SmolLM2-135M, with its 64 highest logits and with the default
selection, repeats them in zstd and LZ4, and reads them in batches of 8 on one core, without the
checks and with them, in turn: for the first time, and again, when a row group whose hash holds is
known to be sound. Numbers are CPU time; a ratio is of one round, and the median is shown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import pytest
import torch

from softtargets import SoftTargetDataset, Store
from softtargets.capture import (
    BuildConfig,
    Hybrid,
    TeacherConfig,
    TopK,
    TransformersTeacher,
    Windowing,
    build,
)
from softtargets.demo.smollm import teacher_directory
from softtargets.store.schema import Compression
from tests.benchmarks.layouts import small_corpus
from tests.benchmarks.loading import BATCH, LENGTH, repeat

COMPRESSIONS: tuple[Compression, ...] = ("zstd", "lz4")


def nanoseconds(store: Store) -> float:
    """Return the CPU time that a token of an epoch takes."""
    started = time.process_time()
    dataset = SoftTargetDataset(store, batch_size=BATCH, num_threads=0)
    num_tokens: int = sum(batch["input_ids"].numel() for batch in dataset)
    return (time.process_time() - started) / num_tokens * 1e9


def epochs(path: Path) -> tuple[float, float]:
    """Return what a token takes in the first epoch of a store that was just opened, and then."""
    store = Store.open(path)
    return nanoseconds(store), nanoseconds(store)


def one_round(path: Path) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return what a token takes without the checks, and with them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("softtargets.store.codec.check_columns", lambda *_: None)
        patch.setattr("softtargets.store.shard_reader.check_unpacked", lambda *_, **__: None)
        without = epochs(path)
    return without, epochs(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        corpus = small_corpus(directory, 12_288)
        paths = {}
        for selection in (TopK(), Hybrid()):
            config = BuildConfig(
                corpus=corpus,
                output=directory / selection.kind,
                windowing=Windowing(sequence_length=LENGTH),
                selection=selection,
                temperatures=(1.0, 2.0),
                batch_tokens=2048,
            )
            teacher = TransformersTeacher(TeacherConfig(name=str(teacher_directory())))
            captured = build(config, teacher).store
            for compression in COMPRESSIONS:
                path = directory / f"{selection.kind}-{compression}"
                repeat(captured, path, arguments.windows, compression)
                paths[f"{selection.kind}, {compression}"] = path
        torch.set_num_threads(1)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        for what, path in paths.items():
            measure(what, path, arguments.rounds)


def measure(what: str, path: Path, rounds: int) -> None:
    """Print what checking adds to reading a store."""
    one_round(path)  # Warms up.
    times = [one_round(path) for _ in range(rounds)]
    for epoch, words in enumerate(("the first time", "again")):
        without = statistics.median(bare[epoch] for bare, _ in times)
        added = statistics.median(checked[epoch] / bare[epoch] - 1 for bare, checked in times)
        print(f"{what}, {words}: {without:.0f} ns a token, {added:+.1%} with the checks")


if __name__ == "__main__":
    main()
