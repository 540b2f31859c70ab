"""Size and reading speed of the store's layout, against the ways in which others store the same.

    python -m tests.benchmarks.layouts

builds a store from SmolLM2-135M and the Python language reference (about 70 s on 2 cores; one unit
of the default size, so one shard), writes the same targets in each layout, and reads every file
into contiguous numpy arrays of ids and values on one core, whole files, medians of several runs.
Exits with 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from softtargets.capture import (
    BuildConfig,
    Corpus,
    TeacherConfig,
    TopK,
    TransformersTeacher,
    Windowing,
    build,
)
from softtargets.capture.keep.selection import Selection
from softtargets.demo.reference_text import write_corpus
from softtargets.demo.smollm import teacher_directory
from softtargets.store import Store
from softtargets.store.schema import Compression, id_columns
from softtargets.store.writer import StoreWriter

MOST_ENTRY_BYTES, MOST_OTHER_BYTES, LEAST_SPEEDUP = 126, 14, 10
ENTRY_COLUMNS = ("id_plane_", "steps", "escapes")


def small_corpus(directory: Path, num_tokens: int) -> Corpus:
    """Return about so many tokens of the Python language reference."""
    train, _ = write_corpus(directory)
    lines, size = [], 0
    for line in train.read_text().splitlines(keepends=True):
        if size > 4 * num_tokens:
            break
        lines.append(line)
        size += len(line)
    train.write_text("".join(lines))
    return Corpus(paths=(train,), id_field="id")


def make_store(directory: Path, num_tokens: int, selection: Selection | None = None) -> Store:
    """Build a store of about `num_tokens` real targets, windows of 512 tokens; by default top-k."""
    config = BuildConfig(
        corpus=small_corpus(directory, num_tokens),
        output=directory / "store",
        windowing=Windowing(sequence_length=512),
        selection=selection or TopK(),
        temperatures=(1.0, 2.0),
        batch_tokens=2048,
    )
    return build(config, TransformersTeacher(TeacherConfig(name=str(teacher_directory())))).store


def rewrite(store: Store, directory: Path, compression: Compression) -> Store:
    """Write the same windows with another compression."""
    identity = {**store.manifest.identity, "compression": compression}
    with StoreWriter.hold(directory, identity) as writer:
        for unit, entry in enumerate(store.manifest.shards):
            with store.open_shard(unit) as shard:
                groups = range(len(entry.row_groups))
                windows = [one for group in groups for one in shard.read_row_group(group)]
            writer.write_unit(unit, windows, entry.run)
        writer.commit(len(store.manifest.shards), "benchmark", store.manifest.corpus)
    return Store.open(directory)


def read_ours(store: Store) -> int:
    """Read every row group to windows, which are views of contiguous arrays; checksums on."""
    return sum(
        len(window.packed) for ref in store.row_groups for window in store.read_row_group(ref)
    )


def read_entries(store: Store) -> int:
    """Read ids and values alone, as the other layouts have them; checksums on."""
    count = 0
    names = [*id_columns(store.targets), "steps", "escapes", "top_logit"]
    for shard in range(len(store.manifest.shards)):
        with store.open_shard(shard) as reader:
            table = reader.read_columns(names)
        for name in names[:-2]:
            for chunk in table.column(name).chunks:
                planes = np.frombuffer(chunk.values.buffers()[1], np.uint8)
                assert len(planes) == chunk.values.type.byte_width * len(chunk.values)
        count += sum(len(chunk.values) for chunk in table.column("top_logit").chunks)
    return count


def column_bytes(store: Store) -> Counter[str]:
    """Return the compressed size of every column."""
    sizes: Counter[str] = Counter()
    for entry in store.manifest.shards:
        metadata = pq.read_metadata(store.root / entry.path)
        for group in range(metadata.num_row_groups):
            for index in range(metadata.num_columns):
                column = metadata.row_group(group).column(index)
                sizes[column.path_in_schema.split(".")[0]] += column.total_compressed_size
    return sizes


def entry_bytes(store: Store) -> int:
    """Return the size of the columns with ids and values."""
    sizes = column_bytes(store).items()
    return sum(size for column, size in sizes if column.startswith(ENTRY_COLUMNS))


def write_nested(store: Store, path: Path) -> None:
    """list<list<int32>> and list<list<float16>>: what most people write."""
    ids = [window.targets.ids_TK for window in store]
    logits = [window.targets.logits_TK.astype(np.float16) for window in store]
    columns = {}
    for name, arrays in (("ids", ids), ("logits", logits)):
        flat = pa.array(np.concatenate(arrays).ravel())
        k = arrays[0].shape[1]
        positions = sum(map(len, arrays))
        inner = pa.ListArray.from_arrays(pa.array(np.arange(positions + 1) * k, pa.int32()), flat)
        offsets = np.cumsum([0, *map(len, arrays)])
        columns[name] = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inner)
    pq.write_table(pa.table(columns), path, compression="zstd")


def read_nested(path: Path) -> int:
    table = pq.read_table(path, use_threads=False)
    ids, logits = (
        table.column(name).combine_chunks().values.values.to_numpy(zero_copy_only=False)
        for name in ("ids", "logits")
    )
    assert len(ids) == len(logits)
    return len(table.column("ids").combine_chunks().values)


def write_flat(store: Store, path: Path) -> None:
    """list<uint16> and list<float16>, flat for each window, BYTE_STREAM_SPLIT."""
    columns = {}
    for name, dtype in (("ids_TK", np.uint16), ("logits_TK", np.float16)):
        arrays = [getattr(window.targets, name).astype(dtype).ravel() for window in store]
        offsets = pa.array(np.cumsum([0, *map(len, arrays)]), pa.int32())
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(arrays)))
    pq.write_table(
        pa.table(columns),
        path,
        compression="zstd",
        use_dictionary=False,
        column_encoding={"logits_TK.list.element": "BYTE_STREAM_SPLIT"},
    )


def read_flat(path: Path) -> int:
    table = pq.read_table(path, use_threads=False)
    ids, _ = (
        table.column(name).combine_chunks().values.to_numpy() for name in ("ids_TK", "logits_TK")
    )
    return len(ids) // 64


def tokens_per_second(
    reads: list[Callable[[], int]],
    rounds: int,
    *,
    is_warm: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> list[tuple[float, float]]:
    """Return each reader's median speed, and the median of its ratios to the first one.

    All of them are timed in turn in every round, and a ratio is of one round: the machine drifts.
    Warm readers read once before they are timed: what the one before gave back to the system costs
    several times its decoding when it is touched again.
    """
    counts = [read() for read in reads]
    speeds: list[list[float]] = []
    for _ in range(rounds):
        speeds.append([])
        for read, count in zip(reads, counts, strict=True):
            if is_warm:
                read()
            started = clock()
            read()
            speeds[-1].append(count / (clock() - started))
    return [
        (
            statistics.median(own[index] for own in speeds),
            statistics.median(own[index] / own[0] for own in speeds),
        )
        for index in range(len(reads))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        store = make_store(directory, arguments.tokens)
        lz4 = rewrite(store, directory / "lz4", "lz4")
        nested, flat = directory / "nested.parquet", directory / "flat.parquet"
        write_nested(store, nested)
        write_flat(store, flat)
        count = store.num_positions
        sizes, entries = column_bytes(store), entry_bytes(store)
        rows: list[tuple[str, float, Callable[[], int]]] = [
            (
                "nested list<list>, int32 + float16, zstd",
                nested.stat().st_size,
                lambda: read_nested(nested),
            ),
            ("flat list, uint16 + float16, zstd", flat.stat().st_size, lambda: read_flat(flat)),
            ("this store, zstd: ids and values", entries, lambda: read_entries(store)),
            ("this store, zstd: windows, all columns", store.num_bytes, lambda: read_ours(store)),
            ("this store, lz4: ids and values", entry_bytes(lz4), lambda: read_entries(lz4)),
            ("this store, lz4: windows, all columns", lz4.num_bytes, lambda: read_ours(lz4)),
        ]
        speeds = tokens_per_second([read for _, _, read in rows], arguments.rounds)
        show(rows, speeds, count, sizes)
        missed = goals(entries / count, (store.num_bytes - entries) / count, speeds[2][1])
    sys.exit(bool(missed))


def show(
    rows: list[Any], speeds: list[tuple[float, float]], count: int, sizes: Counter[str]
) -> None:
    console = Console(highlight=False)
    table = Table(title=f"{count:,} targets of SmolLM2-135M, k = 64, one core")
    for column in ("layout", "bytes/token", "ktok/s", "to nested"):
        table.add_column(column, justify="left" if column == "layout" else "right")
    for (layout, size, _), (speed, ratio) in zip(rows, speeds, strict=True):
        table.add_row(layout, f"{size / count:.1f}", f"{speed / 1e3:,.0f}", f"{ratio:.1f}x")
    console.print(table)
    parts = [f"{column} {size / count:.2f}" for column, size in sizes.most_common()]
    console.print("bytes/token by column: " + ", ".join(parts))


def goals(entry_bytes: float, other_bytes: float, ratio: float) -> list[str]:
    missed = []
    for what, value, holds in (
        (f"ids and values: at most {MOST_ENTRY_BYTES} bytes/token", entry_bytes,
         entry_bytes <= MOST_ENTRY_BYTES),
        (f"all else: at most {MOST_OTHER_BYTES} bytes/token", other_bytes,
         other_bytes <= MOST_OTHER_BYTES),
        (f"reading ids and values: at least {LEAST_SPEEDUP}x nested lists", ratio,
         ratio >= LEAST_SPEEDUP),
    ):  # fmt: skip
        Console(highlight=False).print(f"{'met   ' if holds else 'MISSED'} {what}: {value:.1f}")
        if not holds:
            missed.append(what)
    return missed


if __name__ == "__main__":
    main()
