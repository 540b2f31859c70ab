"""What other encodings of ids and values would take, on the targets of a store.

    python -m tests.benchmarks.encodings [STORE]

Without a store it makes one as `tests.benchmarks.layouts` does. Sizes are of zstd over blocks of
1 MB, as Parquet pages are; side tables are not counted.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zstandard
from rich.console import Console
from rich.table import Table

from softtargets.store import Store
from softtargets.targets import Int32, UInt8
from softtargets.targets.entry_bytes import split_halves
from tests.benchmarks.layouts import make_store

BLOCK = 1 << 20


class Sizes:
    """Compressed sizes a token of arrays with a row for each of N positions."""

    def __init__(self, num_positions: int) -> None:
        self.num_positions = num_positions

    def of(self, array: UInt8, level: int = 1) -> float:
        """Return the size of an array of bytes."""
        content = np.ascontiguousarray(array).tobytes()
        compressor = zstandard.ZstdCompressor(level=level)
        blocks = range(0, len(content), BLOCK)
        size = sum(len(compressor.compress(content[at : at + BLOCK])) for at in blocks)
        return size / self.num_positions

    def of_planes(self, values: Int32, level: int = 1) -> float:
        """Return the size of the two low byte planes of an array."""
        low, high = (values & 255).astype(np.uint8), (values >> 8 & 255).astype(np.uint8)
        return self.of(low, level) + self.of(high, level)


def id_encodings(
    sizes: Sizes, ids_NK: Int32, inputs: Int32, num_ids: int
) -> Iterator[tuple[str, float]]:
    """Yield encodings of the ids alone."""
    yield (
        "ids: byte planes (what is stored, had the low plane been compressed)",
        sizes.of_planes(ids_NK),
    )
    for level in (3, 9, 19):
        yield f"ids: byte planes, zstd level {level}", sizes.of_planes(ids_NK, level)
    for name, counted in (("of the kept ids", ids_NK), ("of the corpus", inputs)):
        counts = np.bincount(counted.ravel(), minlength=num_ids)
        rename = np.empty(num_ids, np.int32)
        rename[np.argsort(-counts, kind="stable")] = np.arange(num_ids, dtype=np.int32)
        yield f"ids: renamed by the frequency {name}, byte planes", sizes.of_planes(rename[ids_NK])
        sorted_NK = np.sort(rename[ids_NK], axis=1)
        gaps_NK = np.diff(sorted_NK, axis=1, prepend=np.int32(0)).astype(np.int32)
        yield "ids: the same, sorted, gaps (order of values lost)", sizes.of_planes(gaps_NK)
    share = np.bincount(ids_NK.ravel()) / ids_NK.size
    share = share[share > 0]
    entropy = -(share * np.log2(share)).sum() * ids_NK.shape[1] / 8
    yield "ids: order-0 entropy", entropy


def value_encodings(sizes: Sizes, steps_NK: Int32) -> Iterator[tuple[str, float]]:
    """Yield encodings of the step differences alone; escapes as two bytes each."""
    whole_NK = np.minimum(steps_NK, 255).astype(np.uint8)
    for level in (1, 9, 19):
        yield f"steps: a byte each, zstd level {level}", sizes.of(whole_NK, level)
    escapes = 2 * (steps_NK >= 15).sum() / len(steps_NK)
    half_NK = np.minimum(steps_NK, 15).astype(np.uint8)
    k = half_NK.shape[1] // 2
    pairs = (half_NK[:, 0 : 2 * k : 2] | half_NK[:, 1 : 2 * k : 2] << 4).astype(np.uint8)
    yield "steps: half bytes, ranks 2h and 2h + 1, with escapes", sizes.of(pairs) + escapes
    halves = (half_NK[:, :k] | half_NK[:, k : 2 * k] << 4).astype(np.uint8)
    yield (
        "steps: half bytes, ranks h and H + h, with escapes (what is stored)",
        sizes.of(halves) + escapes,
    )
    share = np.bincount(whole_NK.ravel()) / whole_NK.size
    share = share[share > 0]
    entropy = -(share * np.log2(share)).sum() * steps_NK.shape[1] / 8
    yield "steps: order-0 entropy", entropy


def measure(store: Store) -> None:
    windows = list(store)
    ids_NK = np.concatenate([window.targets.ids_TK for window in windows])
    inputs = np.concatenate([window.input_ids_L for window in windows])
    steps_NK = []
    for window in windows:
        cells = window.packed.cells
        one_TK = split_halves(cells["steps"], ids_NK.shape[1]).astype(np.int32)
        one_TK[one_TK == 15] = cells["escapes"]
        steps_NK.append(one_TK)
    sizes = Sizes(len(ids_NK))
    table = Table(title=f"{len(ids_NK):,} targets, k = {ids_NK.shape[1]}")
    table.add_column("encoding")
    table.add_column("bytes/token", justify="right")
    for name, size in id_encodings(sizes, ids_NK, inputs, store.targets.vocab_size):
        table.add_row(name, f"{size:.1f}")
    for name, size in value_encodings(sizes, np.concatenate(steps_NK)):
        table.add_row(name, f"{size:.1f}")
    Console(highlight=False, width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", nargs="?")
    arguments = parser.parse_args()
    if arguments.store is not None:
        measure(Store.open(arguments.store))
        return
    with tempfile.TemporaryDirectory() as name:
        measure(make_store(Path(name), 36_864))


if __name__ == "__main__":
    main()
