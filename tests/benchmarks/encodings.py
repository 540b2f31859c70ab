"""What other encodings of ids and values would take, on the targets of a store.

    python -m tests.benchmarks.encodings [STORE]

Without a store it makes one as `tests.benchmarks.layouts` does. Sizes are of zstd over blocks of
1 MB, as Parquet pages are; side tables are not counted. Forms of the id planes are also read back
on one core: a form that is smaller and slow to unpack is no gain.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zstandard
from rich.console import Console
from rich.table import Table

from softtargets.store import Store
from softtargets.targets import Bool, Int32, UInt8, UInt16
from softtargets.targets.entry_bytes import split_halves
from tests.benchmarks.layouts import make_store
from tests.benchmarks.threshold import entropy

BLOCK = 1 << 20
ROW_GROUP = 1 << 14
"""Targets, about as many as a shard's row groups have."""


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
    yield "ids: order-0 entropy", entropy(ids_NK) / len(ids_NK)


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
    yield "steps: order-0 entropy", entropy(whole_NK) / len(whole_NK)


def packed_step_encodings(sizes: Sizes, steps_NK: Int32) -> Iterator[tuple[str, float]]:
    """Yield other packings of the step differences; escapes are a byte each, compressed too."""
    for bits in (2, 3, 4):
        most = (1 << bits) - 1
        codes_NK = np.minimum(steps_NK, most).astype(np.uint8)
        bits_NKB = codes_NK[:, :, None] >> np.arange(bits, dtype=np.uint8) & 1
        rows = np.packbits(bits_NKB.reshape(len(steps_NK), -1), axis=1, bitorder="little")
        escapes = sizes.of(np.minimum(steps_NK[steps_NK >= most], 255).astype(np.uint8))
        name = f"steps: {bits} bits, with escapes"
        yield f"{name}, target by target", sizes.of(rows) + escapes
        by_rank = [rows[at : at + ROW_GROUP].T.ravel() for at in range(0, len(rows), ROW_GROUP)]
        yield f"{name}, row groups rank by rank", sizes.of(np.concatenate(by_rank)) + escapes
    apart = sum(entropy(one_N) for one_N in steps_NK.T)
    yield "steps: order-0 entropy of each rank by itself", apart / len(steps_NK)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdForm:
    """A way to keep ids below 2^16 in arrays of bytes."""

    name: str
    pack: Callable[[UInt16], Sequence[UInt8]]
    unpack: Callable[[Sequence[UInt8]], UInt16]
    num_raw: int = 0
    """How many of the arrays, the first ones, are not compressed."""


def id_forms(is_tie_NK: Bool) -> Iterator[IdForm]:
    """Yield the stored planes, and forms that might be smaller.

    Args:
        is_tie_NK: whether an entry has the value of the one before it. Nearly all ids rise among
            such.
    """
    name = "id planes, low one not compressed (what is stored)"
    yield IdForm(name=name, pack=_planes, unpack=_from_planes, num_raw=1)
    yield IdForm(name="id planes, low one compressed", pack=_planes, unpack=_from_planes)
    for bounds in ((2,), (1, 4), (1, 2, 4, 8)):
        yield _low_bytes_in_classes(bounds)
    yield _gaps_among_ties(is_tie_NK.ravel())


def _planes(ids: UInt16) -> Sequence[UInt8]:
    return (ids & 255).astype(np.uint8), (ids >> 8).astype(np.uint8)


def _from_planes(parts: Sequence[UInt8]) -> UInt16:
    low, high = parts
    bytes_E2 = np.empty((len(low), 2), np.uint8)
    bytes_E2[:, 0], bytes_E2[:, 1] = low, high
    return bytes_E2.view(np.uint16).ravel()


def _low_bytes_in_classes(bounds: Sequence[int]) -> IdForm:
    """Keep low bytes apart by how large the high byte is: frequent ids are small ones."""
    table = np.searchsorted(bounds, np.arange(256), side="right").astype(np.uint8)

    def pack(ids: UInt16) -> Sequence[UInt8]:
        low, high = _planes(ids)
        classes = table[high]
        return high, *(low[classes == one] for one in range(len(bounds) + 1))

    def unpack(parts: Sequence[UInt8]) -> UInt16:
        high, *lows = parts
        classes, low = table[high], np.empty(len(high), np.uint8)
        for one, own in enumerate(lows):
            low[classes == one] = own
        return _from_planes((low, high))

    name = f"id planes, low bytes in {len(bounds) + 1} columns by the high byte"
    return IdForm(name=name, pack=pack, unpack=unpack)


def _gaps_among_ties(is_tie: Bool) -> IdForm:
    """Keep an id as the gap to the one before it where both have the same value."""
    starts = np.flatnonzero(~is_tie)

    def pack(ids: UInt16) -> Sequence[UInt8]:
        gaps = np.diff(ids, prepend=np.uint16(0))
        return _planes(np.where(is_tie, gaps, ids))

    def unpack(parts: Sequence[UInt8]) -> UInt16:
        gaps = _from_planes(parts)
        # The sum wraps, and so does the gap to a lower id.
        sums = gaps.cumsum(dtype=np.uint16)
        before = sums[starts] - gaps[starts]
        found: UInt16 = sums - np.repeat(before, np.diff(starts, append=len(gaps)))
        return found

    name = "id planes, gaps among equal values, low one not compressed"
    return IdForm(name=name, pack=pack, unpack=unpack, num_raw=1)


def nanoseconds(form: IdForm, ids: UInt16, rounds: int = 5) -> float:
    """Return the CPU time in which an id is unpacked, the median of some rounds.

    Which values are equal is known before: the time to find that is not counted.
    """
    parts = form.pack(ids)
    raw = parts[: form.num_raw]
    kept = [zstandard.ZstdCompressor(level=1).compress(one.tobytes()) for one in parts[len(raw) :]]
    times = []
    for _ in range(rounds):
        started = time.process_time()
        unzipped = (zstandard.ZstdDecompressor().decompress(one) for one in kept)
        found = form.unpack([*raw, *(np.frombuffer(one, np.uint8) for one in unzipped)])
        times.append(time.process_time() - started)
        assert np.array_equal(found, ids)
    return 1e9 * statistics.median(times) / len(ids)


def show_id_forms(sizes: Sizes, ids_NK: Int32, steps_NK: Int32, console: Console) -> None:
    """Print what forms of the id planes take, and how long it takes to read them."""
    is_tie_NK = steps_NK == 0
    is_tie_NK[:, 0] = False
    ids, num_entries = ids_NK.astype(np.uint16).ravel(), ids_NK.shape[1]
    table = Table(title="forms of the id planes")
    table.add_column("form")
    table.add_column("bytes/target", justify="right")
    table.add_column("CPU ns/target", justify="right")
    for form in id_forms(is_tie_NK):
        parts = form.pack(ids)
        size = sum(one.size for one in parts[: form.num_raw]) / len(ids_NK)
        size += sum(sizes.of(one) for one in parts[form.num_raw :])
        table.add_row(form.name, f"{size:.1f}", f"{num_entries * nanoseconds(form, ids):.0f}")
    console.print(table)


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
    all_steps_NK = np.concatenate(steps_NK)
    for encodings in (value_encodings, packed_step_encodings):
        for name, size in encodings(sizes, all_steps_NK):
            table.add_row(name, f"{size:.1f}")
    console = Console(highlight=False, width=100)
    console.print(table)
    show_id_forms(sizes, ids_NK, all_steps_NK, console)


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
