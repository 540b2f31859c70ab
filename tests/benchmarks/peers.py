"""Batches per CPU second from a store, and from other libraries that hold the same arrays.

    python -m tests.benchmarks.peers [docs/loading.md] [--windows 1000] [--rounds 5]

captures 60 windows of 512 real tokens of SmolLM2-135M, with the default selection and with the 64
highest logits, repeats them as different windows, and reads them in shuffled batches of 8 on one
core: from the store, in zstd and in LZ4, beside

    datasets            a map-style dataset in Arrow, with flat lists, in numpy's format
    mosaicml-streaming  MDS, with a column of numpy's arrays for each array
    litdata             chunks of dictionaries of numpy's arrays

The others hold tokens, entries, draws and tail masses as int32, float16 and float32, one flat array
a window, and their batches are these joined end to end. That is the least they can do: a batch of
ours has checked and padded tensors. `pip install mosaicml-streaming litdata` brings the libraries.
Numbers are medians of the rounds, each reader's second epoch in a round, ratios to the first row of
the same round. With a page, its table is written anew.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader

from softtargets import Store
from softtargets.capture import Hybrid, TopK
from softtargets.capture.keep.selection import Selection
from softtargets.store.schema import Compression
from softtargets.window import Window
from tests.benchmarks.layouts import make_store, tokens_per_second
from tests.benchmarks.loading import BATCH, read_batches, repeat
from tests.benchmarks.page_table import put_table

TABLE = "table of other libraries"
SELECTIONS: dict[str, Selection] = {"default": Hybrid(), "top-k 64": TopK()}
COMPRESSIONS: tuple[Compression, ...] = ("zstd", "lz4")
Row = dict[str, np.ndarray]
Reader = Callable[[], int]


def row_of(window: Window) -> Row:
    """Return what a window says as flat arrays."""
    targets = window.targets
    kept_TK = np.isfinite(targets.logits_TK)
    row: Row = {
        "tokens": window.input_ids_L.astype(np.int32),
        "num_entries": targets.num_entries_T.astype(np.int32),
        "ids": targets.ids_TK[kept_TK].astype(np.int32),
        "logits": targets.logits_TK[kept_TK].astype(np.float16),
        "tail_mass": targets.tail_mass_TG.astype(np.float32).ravel(),
    }
    if targets.samples is not None:
        assert targets.samples.logits_S is not None
        row |= {
            "num_drawn": targets.samples.num_samples_T.astype(np.int32),
            "drawn_ids": targets.samples.ids_S.astype(np.int32),
            "drawn_counts": targets.samples.counts_S.astype(np.int32),
            "drawn_logits": targets.samples.logits_S.astype(np.float16),
        }
    return row


def join(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Return a batch: the arrays of some windows end to end."""
    return {name: torch.from_numpy(np.concatenate([row[name] for row in rows])) for name in rows[0]}


def count(batches: Iterator[dict[str, torch.Tensor]]) -> int:
    """Read batches, and return how many targets they have."""
    return sum(batch["num_entries"].numel() for batch in batches)


def arrow(rows: list[Row], path: Path) -> Reader:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    arrays = {name: pa.array(values) for name, values in columns.items()}
    datasets.Dataset(pa.table(arrays)).save_to_disk(path)
    kept = datasets.load_from_disk(str(path)).with_format("numpy")

    def read() -> int:
        order = np.random.default_rng(0).permutation(len(kept))
        chosen = (kept[order[at : at + BATCH]] for at in range(0, len(order), BATCH))
        return count(
            {name: torch.from_numpy(np.concatenate(list(one))) for name, one in batch.items()}
            for batch in chosen
        )

    return read


def mosaicml(rows: list[Row], path: Path) -> Reader:
    from streaming import MDSWriter, StreamingDataset

    columns = {name: f"ndarray:{array.dtype}" for name, array in rows[0].items()}
    with MDSWriter(out=str(path), columns=columns) as writer:
        for row in rows:
            writer.write(row)
    dataset = StreamingDataset(local=str(path), shuffle=True, batch_size=BATCH)
    return lambda: count(iter(DataLoader(dataset, batch_size=BATCH, collate_fn=join)))


def litdata(rows: list[Row], path: Path) -> Reader:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import Cache

    cache = Cache(str(path), chunk_bytes="64MB")
    for number, row in enumerate(rows):
        cache[number] = row
    cache.done()
    cache.merge(1)
    dataset = StreamingDataset(str(path), shuffle=True)
    return lambda: count(iter(StreamingDataLoader(dataset, batch_size=BATCH, collate_fn=join)))


PEERS: dict[str, Callable[[list[Row], Path], Reader]] = {
    "datasets": arrow,
    "mosaicml-streaming": mosaicml,
    "litdata": litdata,
}


def version_of(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def measure(name: str, directory: Path, num_windows: int, rounds: int) -> Iterator[list[str]]:
    """Yield the rows of the table of a selection."""
    captured = make_store(directory, 32_768, SELECTIONS[name])
    readers: dict[str, tuple[Reader, float]] = {}
    for compression in COMPRESSIONS:
        store = repeat(captured, directory / compression, num_windows, compression)
        size = store.num_bytes / store.num_positions
        readers[f"softtargets, {compression}"] = partial(read_targets, store), size
    rows = [row_of(window) for window in store]
    missing = []
    for peer, make in PEERS.items():
        installed = version_of(peer)
        if installed is None:
            missing.append(peer)
            continue
        path = directory / peer
        read = make(rows, path)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        readers[f"{peer} {installed}"] = read, size / store.num_positions
    reads = [read for read, _ in readers.values()]
    speeds = tokens_per_second(reads, rounds, is_warm=True, clock=time.process_time)
    assert len({read() for read in reads}) == 1
    for (reader, (_, size)), (speed, ratio) in zip(readers.items(), speeds, strict=True):
        yield [name, reader, f"{size:.0f}", f"{speed / 1e6:.2f}", f"{ratio:.2f}"]
    yield from ([name, peer, "not installed", "", ""] for peer in missing)


def read_targets(store: Store) -> int:
    """Read shuffled batches, and return how many targets the store has."""
    read_batches(store)
    return store.num_positions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, nargs="?")
    parser.add_argument("--windows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    cells: list[list[Any]] = []
    for name in SELECTIONS:
        with tempfile.TemporaryDirectory() as directory:
            cores = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {min(cores)})
            cells += measure(name, Path(directory), arguments.windows, arguments.rounds)
            os.sched_setaffinity(0, cores)
    header = "selection", "held by", "bytes/target", "million targets/CPU s", "to softtargets, zstd"
    lines = [f"| {' | '.join(header)} |", "|---|---|---:|---:|---:|"]
    lines += [f"| {' | '.join(row)} |" for row in cells]
    print("\n".join(lines))
    if arguments.page is not None:
        put_table(arguments.page, TABLE, lines)


if __name__ == "__main__":
    main()
