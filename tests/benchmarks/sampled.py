"""Size and reading speed of sampled targets, against the published format of 24 bits an entry.

    python -m tests.benchmarks.sampled

draws from the softmax of SmolLM2-135M over the Python language reference, as many times as give
about 12 distinct ids a position, writes them as a store, and reads it on one core. The published
format (Anshumann et al. 2025, "Sparse logit sampling") has 17 bits of id and 7 of count. Exits with
1 when the goal is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import zstandard
from rich.console import Console
from rich.table import Table

from softtargets.capture import TeacherConfig, TransformersTeacher
from softtargets.demo.smollm import teacher_directory
from softtargets.kinds import SampleSchema, TargetSchema
from softtargets.store import Store
from softtargets.store.writer import StoreWriter
from softtargets.targets import Samples, SoftTargets, pack
from softtargets.window import Window
from tests.benchmarks.layouts import column_bytes, make_store, tokens_per_second

MOST_BYTES, NUM_DISTINCT = 20, 12
PUBLISHED_BITS = 24
SAMPLE_COLUMNS = ("num_repeated", "repeated_counts", "sample_gaps")


def draw(store: Store, schema: TargetSchema) -> Iterator[Window]:
    """Yield the windows of a store with draws from the teacher's softmax."""
    assert schema.samples is not None
    teacher = TransformersTeacher(TeacherConfig(name=str(teacher_directory())))
    teacher.load()
    generator = torch.Generator().manual_seed(0)
    for window in store:
        with torch.inference_mode():
            ids_1L = torch.from_numpy(window.input_ids_L.astype(np.int64))[None]
            hidden_TD = teacher.hidden_states(ids_1L)[0, :-1]
            rows, sums = [], []
            for hidden_CD in hidden_TD.split(64):
                logits_CV = teacher.logits(hidden_CD).float()
                sums.append(logits_CV.logsumexp(dim=1))
                rows += torch.multinomial(
                    logits_CV.softmax(dim=1),
                    schema.samples.num_draws,
                    replacement=True,
                    generator=generator,
                ).tolist()
        counted = [np.unique(row, return_counts=True) for row in rows]
        targets = SoftTargets(
            ids_TK=np.empty((len(rows), 0), np.int32),
            logits_TK=np.empty((len(rows), 0), np.float32),
            num_entries_T=np.zeros(len(rows), np.int32),
            tail_mass_TG=np.ones((len(rows), 1), np.float32),
            temperatures=schema.temperatures,
            logsumexp_TG=torch.cat(sums)[:, None].numpy(),
            samples=Samples(
                num_samples_T=np.array([len(ids) for ids, _ in counted], np.int32),
                ids_S=np.concatenate([ids for ids, _ in counted]).astype(np.int32),
                counts_S=np.concatenate([counts for _, counts in counted]).astype(np.int32),
            ),
        )
        yield Window.of(window, pack(targets, schema))


def write_nested(store: Store, path: Path) -> None:
    """list<list<int32>> of ids and list<list<int16>> of counts: what most people write."""
    samples = [window.targets.samples for window in store]
    columns = {}
    inner = np.cumsum([0, *np.concatenate([one.num_samples_T for one in samples if one])])
    outer = np.cumsum([0, *(len(one.num_samples_T) for one in samples if one)])
    for name, values in (
        ("ids", np.concatenate([one.ids_S for one in samples if one])),
        ("counts", np.concatenate([one.counts_S for one in samples if one]).astype(np.int16)),
    ):
        entries = pa.ListArray.from_arrays(pa.array(inner, pa.int32()), pa.array(values))
        columns[name] = pa.ListArray.from_arrays(pa.array(outer, pa.int32()), entries)
    pq.write_table(pa.table(columns), path, compression="zstd")


def read_nested(path: Path) -> int:
    table = pq.read_table(path, use_threads=False)
    columns = [table.column(name).combine_chunks().values for name in ("ids", "counts")]
    assert len(columns[0].values.to_numpy()) == len(columns[1].values.to_numpy())
    return len(columns[0])


def read_ours(store: Store) -> int:
    """Read every window and unpack its ids and counts; checksums on."""
    count = 0
    for ref in store.row_groups:
        for window in store.read_row_group(ref):
            samples = window.targets.samples
            assert samples is not None
            assert len(samples.ids_S) == len(samples.counts_S)
            count += len(window.packed)
    return count


def write_sampled(store: Store, directory: Path, schema: TargetSchema) -> Store:
    """Write draws for the windows of a store."""
    identity = {**store.manifest.identity, "targets": schema.to_dict()}
    with StoreWriter.hold(directory, identity) as writer:
        writer.write_unit(0, list(draw(store, schema)), {})
        writer.commit(1, "benchmark", store.manifest.corpus)
    return Store.open(directory)


def encodings(store: Store) -> Iterator[tuple[str, float]]:
    """Yield what ids and counts take in bytes/token in other encodings, zstd without Parquet."""
    samples = [window.targets.samples for window in store]
    num_T = np.concatenate([one.num_samples_T for one in samples if one])
    ids_S = np.concatenate([one.ids_S for one in samples if one]).astype(np.int64)
    counts_S = np.concatenate([one.counts_S for one in samples if one])
    position_S = np.repeat(np.arange(len(num_T)), num_T)

    def packed(*arrays: np.ndarray, level: int = 1) -> float:
        compress = zstandard.ZstdCompressor(level=level).compress
        size = sum(len(compress(array.astype(np.uint8).tobytes())) for array in arrays)
        return size / len(num_T)

    def planes(values_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return values_S & 255, values_S >> 8

    def gaps(order_S: np.ndarray, run_S: np.ndarray) -> np.ndarray:
        """Return gaps between ids in an order, from the start of each run."""
        ids, runs, positions = ids_S[order_S], run_S[order_S], position_S[order_S]
        same = (np.diff(runs, prepend=-1) == 0) & (np.diff(positions, prepend=-1) == 0)
        result: np.ndarray = np.where(same, ids - np.roll(ids, 1), ids + 1) - 1
        return result

    by_count = np.lexsort((ids_S, -counts_S, position_S))
    by_id = np.lexsort((ids_S, position_S))
    is_single_S = counts_S == 1
    by_run = np.lexsort((ids_S, is_single_S, position_S))
    yield (
        "ids by falling count, a count each",
        packed(num_T, *planes(ids_S[by_count]), counts_S[by_count]),
    )
    yield (
        "ids by rising id as gaps, a count each",
        packed(num_T, *planes(gaps(by_id, np.zeros_like(ids_S))), counts_S[by_id]),
    )
    yield (
        "ids by falling count, gaps where counts are equal, a count each",
        packed(num_T, *planes(gaps(by_count, counts_S)), counts_S[by_count]),
    )
    num_repeated_T = np.bincount(position_S[~is_single_S], minlength=len(num_T))
    repeated = (num_repeated_T, counts_S[by_run][~is_single_S[by_run]])
    run_gaps = gaps(by_run, is_single_S)
    for level in (1, 19):
        yield (
            f"repeated ids, then single ones, gaps in both, level {level}",
            packed(*repeated, *planes(run_gaps), level=level),
        )
    lengths = np.frexp(run_gaps)[1]
    bits = np.maximum(lengths - 1, 0).sum() / 8 / len(num_T)
    yield "the same, gaps as length classes and packed bits", packed(*repeated, lengths) + bits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--draws", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        tokens = make_store(directory, arguments.tokens)
        schema = TargetSchema(
            vocab_size=tokens.targets.vocab_size,
            tokenizer_vocab_size=tokens.targets.tokenizer_vocab_size,
            temperatures=(1.0,),
            samples=SampleSchema(num_draws=arguments.draws, origin="all", temperature=1.0),
        )
        store = write_sampled(tokens, directory / "sampled", schema)
        nested = directory / "nested.parquet"
        write_nested(store, nested)
        speeds = tokens_per_second(
            [lambda: read_nested(nested), lambda: read_ours(store)], arguments.rounds
        )
        missed = show(store, nested.stat().st_size, speeds)
    sys.exit(missed)


def show(store: Store, nested_bytes: int, speeds: list[tuple[float, float]]) -> bool:
    console = Console(highlight=False)
    count = store.num_positions
    samples = [window.targets.samples for window in store]
    distinct = sum(len(one.ids_S) for one in samples if one) / count
    sizes = {name: size / count for name, size in column_bytes(store).items()}
    ours = sum(sizes[name] for name in SAMPLE_COLUMNS)
    table = Table(
        title=f"{count:,} targets of SmolLM2-135M, {store.targets.describe()}, "
        f"{distinct:.2f} distinct, one core"
    )
    for column in ("layout", "bytes/token", "bits/entry", "ktok/s", "to nested"):
        table.add_column(column, justify="left" if column == "layout" else "right")
    for layout, size, speed in (
        ("nested list<list>, int32 + int16, zstd", nested_bytes / count, speeds[0]),
        ("published: 17-bit ids, 7-bit counts", distinct * PUBLISHED_BITS / 8, None),
        ("this store: ids and counts", ours, speeds[1]),
    ):
        rates = ("", "") if speed is None else (f"{speed[0] / 1e3:,.0f}", f"{speed[1]:.1f}x")
        table.add_row(layout, f"{size:.1f}", f"{8 * size / distinct:.1f}", *rates)
    console.print(table)
    table = Table(title="other encodings of ids and counts")
    table.add_column("encoding")
    table.add_column("bytes/token", justify="right")
    for name, size in encodings(store):
        table.add_row(name, f"{size:.1f}")
    console.print(table)
    console.print(
        "bytes/token by column: "
        + ", ".join(f"{name} {size:.2f}" for name, size in sizes.items() if size >= 0.005)
    )
    scaled = ours * NUM_DISTINCT / distinct
    holds = scaled <= MOST_BYTES
    console.print(
        f"{'met   ' if holds else 'MISSED'} ids and counts at {NUM_DISTINCT} distinct entries: at "
        f"most {MOST_BYTES} bytes/token: {scaled:.1f}"
    )
    return not holds


if __name__ == "__main__":
    main()
