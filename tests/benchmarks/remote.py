"""How fast a store behind a URL is read, by threads, at a latency.

    python -m tests.benchmarks.remote STORE [--latency 50] [--rounds 3]

copies a local store to a bucket of rclone's S3 server on loopback and reads it in shuffled batches
of 8, every request waiting so many milliseconds: first without a cache, then in a second epoch with
one. The server runs in processes of their own, on the same cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from softtargets import SoftTargetDataset, Store
from softtargets.stream.read_ahead import StreamStats
from tests.object_store import Bucket, run_proxy, run_server

THREADS = (0, 1, 4, 8, 16)


def serve(store: Path, directory: Path, latency: float, parent: Connection) -> None:
    """Serve a copy of a store until the parent says something."""
    with run_server(directory) as port, run_proxy(port) as proxy:
        url = Bucket(directory, proxy).copy(Store.open(store))
        proxy.latency = latency
        parent.send(url)
        parent.recv()


def read(place: Store | str | Path, num_threads: int) -> StreamStats:
    """Read an epoch and return what it took."""
    dataset = SoftTargetDataset(place, shuffle=True, batch_size=8, num_threads=num_threads)
    for _ in dataset:
        pass
    return dataset.stats()


def median_row(name: str, runs: list[StreamStats]) -> list[str]:
    """Return a row of the table."""
    rate = statistics.median(run.tokens_per_second for run in runs)
    stall = statistics.median(run.stall_seconds / run.seconds for run in runs)
    fetched = runs[0].reads.fetched_bytes / runs[0].tokens
    return [name, f"{rate / 1e6:.2f}", f"{stall:.0%}", f"{fetched:.0f}"]


def measure(store: Path, url: str, rounds: int) -> Table:
    """Read here and there, by turns."""
    table = Table("threads", "million tokens/s", "stalled", "bytes/token fetched")
    cases: dict[str, Any] = {f"{number}, afar": (url, number) for number in THREADS}
    cases |= {f"{number}, here": (store, number) for number in (0, 1, 4)}
    with tempfile.TemporaryDirectory() as directory:
        cached = Store.open(url, cache_dir=directory)
        read(cached, 8)
        cases["1, cached"] = (cached, 1)
        runs: dict[str, list[StreamStats]] = {name: [] for name in cases}
        for _ in range(rounds):
            for name, case in cases.items():
                runs[name].append(read(*case))
    for name, own in runs.items():
        table.add_row(*median_row(name, own))
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--latency", type=float, default=50, help="milliseconds of every request")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe()
    with tempfile.TemporaryDirectory() as directory:
        arguments = (options.store, Path(directory), options.latency / 1000, other)
        server = context.Process(target=serve, args=arguments)
        server.start()
        try:
            table = measure(options.store, own.recv(), options.rounds)
        finally:
            own.send("done")
            server.join()
    Console().print(table)


if __name__ == "__main__":
    main()
