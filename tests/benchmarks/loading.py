"""How fast batches come from a store, beside other ways to keep the same windows.

    python -m tests.benchmarks.loading [--windows 2000] [--rounds 5]

captures 60 windows of 512 real tokens with the 64 highest logits of SmolLM2-135M (100 s on 2
cores), repeats them, each with a first token of its own, and reads them in shuffled batches of 8:
collated batches of a store in zstd and in LZ4, with one thread that decodes and with two; beside

    raw memory map      int32 ids and float16 logits, gathered by the same shuffled order
    pyarrow             the store's own shards, whole columns, no order and no batches
    datasets            streaming from Parquet with nested lists, and from Array2D

Numbers are medians of the rounds, each reader's second epoch in a round, ratios to the first row of
the same round. Everything runs on one core, but for the rows with two threads. At the end a small
student is trained, and the share of its time that passes before it has its next batch is measured.
Exits with 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from softtargets import SoftTargetDataset, Store, distillation_loss
from softtargets.store.schema import Compression
from softtargets.store.writer import StoreWriter
from softtargets.window import hash_window
from tests.benchmarks.layouts import make_store, tokens_per_second

BATCH, LENGTH, UNIT_WINDOWS = 8, 512, 128
GOALS = {"zstd": 3e6, "lz4": 6e6}
LEAST_NESTED_RATIO, MOST_SHUFFLE_COST, MOST_CHECK_COST = 40, 1.10, 1.05
MOST_STALL, STEPS, STEP_BATCH = 0.01, 20, 2


def repeat(store: Store, directory: Path, num_windows: int, compression: Compression) -> Store:
    """Write the full windows of a store again and again, as different ones."""
    windows = [window for window in store if len(window) == LENGTH]
    identity = {**store.manifest.identity, "compression": compression}
    with StoreWriter.hold(directory, identity) as writer:
        numbers = iter(range(num_windows))
        for unit in range(-(-num_windows // UNIT_WINDOWS)):
            own = []
            for number, _ in zip(numbers, range(UNIT_WINDOWS), strict=False):
                window = windows[number % len(windows)]
                ids_L = window.input_ids_L.copy()
                ids_L[0] = number
                window_id = hash_window(ids_L, window.segment_lengths_S, window.mask_T)
                own.append(replace(window, input_ids_L=ids_L, window_id=window_id))
            writer.write_unit(unit, own, {})
        writer.commit(unit + 1, "benchmark", store.manifest.corpus)
    return Store.open(directory)


def read_batches(store: Store, **options: Any) -> int:
    dataset = SoftTargetDataset(store, batch_size=BATCH, **({"shuffle": True} | options))
    return sum(batch["input_ids"].numel() for batch in dataset)


@contextmanager
def unchecked() -> Iterator[None]:
    """Believe every byte."""
    from softtargets.places.ranges import PlainFile

    def read_into(self: Any, piece: Any, offset: int, *_: Any) -> None:
        self._file.seek(offset)
        self._file.readinto(piece)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlainFile, "read_into", read_into)
        yield


def read_unchecked(store: Store) -> int:
    with unchecked():
        return read_batches(store)


def read_with_pyarrow(store: Store) -> int:
    count = 0
    for entry in store.manifest.shards:
        table = pq.read_table(store.root / entry.path, use_threads=False)
        count += len(table.column("input_ids").combine_chunks().values)
    return count


def stall(store: Store) -> float:
    """Train a student of two layers, and return the share of its time that it waits for batches."""
    config = LlamaConfig(
        vocab_size=store.targets.vocab_size,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    student = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    batches = iter(SoftTargetDataset(store, shuffle=True, batch_size=STEP_BATCH))
    next(batches)
    waited, started = 0.0, time.perf_counter()
    for _ in range(STEPS):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        logits = student(input_ids=batch["input_ids"]).logits
        distillation_loss(logits, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return waited / (time.perf_counter() - started)


class Arrays:
    """The same windows as plain arrays [windows, LENGTH, K]; the last position has no target."""

    def __init__(self, store: Store) -> None:
        windows = list(store)
        k = windows[0].targets.ids_TK.shape[1]
        self.ids = np.zeros((len(windows), LENGTH, k), np.int32)
        self.logits = np.zeros((len(windows), LENGTH, k), np.float16)
        self.tokens = np.stack([window.input_ids_L for window in windows])
        for row, window in enumerate(windows):
            self.ids[row, :-1] = window.targets.ids_TK
            self.logits[row, :-1] = window.targets.logits_TK

    def rows(self) -> Iterator[dict[str, np.ndarray]]:
        for row in range(len(self.tokens)):
            yield {"tokens": self.tokens[row], "ids": self.ids[row], "logits": self.logits[row]}


def memory_map(arrays: Arrays, directory: Path) -> Callable[[], int]:
    maps = []
    for name in ("tokens", "ids", "logits"):
        path = directory / f"{name}.npy"
        np.save(path, getattr(arrays, name))
        maps.append(np.load(path, mmap_mode="r"))

    def read() -> int:
        order = np.random.default_rng(0).permutation(len(maps[0]))
        count = 0
        for start in range(0, len(order), BATCH):
            chosen = np.sort(order[start : start + BATCH])
            batch = [torch.from_numpy(one[chosen]) for one in maps]
            count += batch[0].numel()
        return count

    return read


def hugging_face(arrays: Arrays, directory: Path, kind: str) -> Callable[[], int]:
    few = 64  # Slow enough that more would only take longer.
    shape = arrays.ids.shape[1:]
    if kind == "nested lists":
        features = datasets.Features(
            tokens=datasets.Sequence(datasets.Value("int32")),
            ids=datasets.Sequence(datasets.Sequence(datasets.Value("int32"))),
            logits=datasets.Sequence(datasets.Sequence(datasets.Value("float16"))),
        )
    else:
        features = datasets.Features(
            tokens=datasets.Sequence(datasets.Value("int32")),
            ids=datasets.Array2D(shape, "int32"),
            logits=datasets.Array2D(shape, "float16"),
        )
    rows = [row for row, _ in zip(arrays.rows(), range(few), strict=False)]
    path = directory / f"{kind.replace(' ', '-')}.parquet"
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)

    def read() -> int:
        stream = datasets.load_dataset(
            "parquet", data_files=str(path), split="train", streaming=True, features=features
        )
        batches = stream.shuffle(seed=0, buffer_size=32).with_format("torch").batch(BATCH)
        return sum(batch["tokens"].numel() for batch in batches)

    return read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        captured = make_store(directory, 32_768)
        stores: dict[str, Store] = {
            compression: repeat(captured, directory / compression, arguments.windows, compression)
            for compression in ("zstd", "lz4")
        }
        arrays = Arrays(stores["zstd"])
        cores = os.sched_getaffinity(0)
        one_core = {min(cores)}
        readers: dict[str, tuple[Callable[[], int], set[int]]] = {}
        for compression, store in stores.items():
            readers[f"ours, {compression}"] = partial(read_batches, store), one_core
            readers[f"ours, {compression}, 2 threads"] = (
                partial(read_batches, store, num_threads=2),
                cores,
            )
            readers[f"ours, {compression}, in order"] = (
                partial(read_batches, store, shuffle=False),
                one_core,
            )
            readers[f"ours, {compression}, unchecked"] = partial(read_unchecked, store), one_core
            readers[f"pyarrow, {compression}"] = partial(read_with_pyarrow, store), one_core
        readers["raw memory map"] = memory_map(arrays, directory), one_core
        for kind in ("nested lists", "Array2D"):
            readers[f"datasets, {kind}"] = hugging_face(arrays, directory, kind), one_core

        def on(read: Callable[[], int], own: set[int]) -> Callable[[], int]:
            def call() -> int:
                os.sched_setaffinity(0, own)
                return read()

            return call

        reads = [on(*one) for one in readers.values()]
        speeds = tokens_per_second(reads, arguments.rounds, is_warm=True)
        found = dict(zip(readers, speeds, strict=True))
        missed = show(found)
        os.sched_setaffinity(0, cores)
        share = stall(stores["zstd"])
        text = f"a student waits at most {MOST_STALL:.0%} of its time: {share:.2%}"
        print("met   " if share <= MOST_STALL else "MISSED", text)
        sys.exit(missed or share > MOST_STALL)


def show(found: dict[str, tuple[float, float]]) -> bool:
    console = Console(highlight=False)
    table = Table(title=f"Batches of {BATCH} x {LENGTH} tokens, k = 64, shuffled")
    for column in ("store", "million tokens/s", "to ours, zstd"):
        table.add_column(column, justify="left" if column == "store" else "right")
    for name, (speed, ratio) in found.items():
        table.add_row(name, f"{speed / 1e6:.2f}", f"{ratio:.3f}")
    console.print(table)
    missed = False
    for text, holds in goals(found):
        console.print(f"{'met   ' if holds else 'MISSED'} {text}")
        missed |= not holds
    return missed


def goals(found: dict[str, tuple[float, float]]) -> Iterator[tuple[str, bool]]:
    for compression, goal in GOALS.items():
        speed, ratio = found[f"ours, {compression}"]
        yield f"{compression}: {goal / 1e6:g} million tokens/s: {speed / 1e6:.2f}", speed >= goal
        cost = found[f"ours, {compression}, in order"][1] / ratio
        text = f"{compression}: shuffling costs at most {MOST_SHUFFLE_COST - 1:.0%}: {cost - 1:.1%}"
        yield text, cost <= MOST_SHUFFLE_COST
        cost = found[f"ours, {compression}, unchecked"][1] / ratio
        text = f"{compression}: checking costs at most {MOST_CHECK_COST - 1:.0%}: {cost - 1:.1%}"
        yield text, cost <= MOST_CHECK_COST
    ratio = 1 / found["datasets, nested lists"][1]
    text = f"{LEAST_NESTED_RATIO} times datasets with nested lists: {ratio:.0f}"
    yield text, ratio >= LEAST_NESTED_RATIO


if __name__ == "__main__":
    main()
