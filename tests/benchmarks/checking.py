"""What checking the values of columns costs, beside reading them in batches.

    python -m tests.benchmarks.checking [--windows 512] [--rounds 15]

captures windows of 512 real tokens of SmolLM2-135M, with its 64 highest logits and with the default
selection, repeats them in zstd and LZ4, and reads them in batches of 8 on one core, with the checks
and without, in turn. Numbers are CPU time; a ratio is of one round, and the median is shown.
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
from softtargets.demo.teacher import teacher_directory
from softtargets.store.schema import Compression
from tests.benchmarks.layouts import small_corpus
from tests.benchmarks.loading import BATCH, LENGTH, repeat

COMPRESSIONS: tuple[Compression, ...] = ("zstd", "lz4")


def nanoseconds(store: Store, *, are_checked: bool) -> float:
    """Return the CPU time that a token of an epoch takes."""
    with pytest.MonkeyPatch.context() as patch:
        if not are_checked:
            patch.setattr("softtargets.store.codec.check_columns", lambda *_: None)
            patch.setattr("softtargets.store.codec.check_samples", lambda *_: None)
        started = time.process_time()
        dataset = SoftTargetDataset(store, batch_size=BATCH, num_threads=0)
        num_tokens: int = sum(batch["input_ids"].numel() for batch in dataset)
        return (time.process_time() - started) / num_tokens * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        corpus = small_corpus(directory, 12_288)
        stores = {}
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
                own = repeat(captured, path, arguments.windows, compression)
                stores[f"{selection.kind}, {compression}"] = own
        torch.set_num_threads(1)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        for what, store in stores.items():
            measure(what, store, arguments.rounds)


def measure(what: str, store: Store, rounds: int) -> None:
    times: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        without = nanoseconds(store, are_checked=False)
        times.append((without, nanoseconds(store, are_checked=True)))
    times = times[1:]  # The first round warms up.
    ratio = statistics.median(checked / without for without, checked in times)
    without, checked = (statistics.median(own) for own in zip(*times, strict=True))
    print(f"{what}: {without:.0f} ns a token without, {checked:.0f} with: {ratio - 1:+.1%}")


if __name__ == "__main__":
    main()
