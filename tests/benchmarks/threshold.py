"""Bytes of threshold draws, and of top-k 64 in format 1.3, column by column, on real targets.

    python -m tests.benchmarks.threshold [--tokens 36864]

runs SmolLM2-135M over the Python language reference (some minutes on 2 cores), keeps threshold
draws for several N, writes them as stores, and says what each column takes and what other forms of
it would. Exits with 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table

from softtargets.capture import TeacherConfig, TransformersTeacher
from softtargets.demo.smollm import teacher_directory
from softtargets.store import Store
from softtargets.store.writer import StoreWriter
from softtargets.targets import (
    Array,
    DrawsSchema,
    EntriesSchema,
    Samples,
    SoftTargets,
    TargetSchema,
    pack,
)
from softtargets.window import TokenWindow, Window
from tests.benchmarks.layouts import column_bytes, make_store

GRID_STEP, LABEL_STEP, STEP = 1 / 64, 1 / 16, 1 / 16
MOST_BYTES = {9: 13.5, 17: 19.0, 24: 24.0}
MOST_LABEL_BYTES, MOST_BYTES_OF_TWO, MOST_TOPK_BYTES = 2.0, 32.0, 125.0
DRAWS_OF_TWO = 17
GRID = (1.0, 2.0)


@dataclass(frozen=True)
class Case:
    """What is stored."""

    name: str
    schema: TargetSchema
    most_bytes: float


def cases(store: Store) -> Iterator[Case]:
    """Yield what is measured: the goals of threshold draws."""
    vocab_size = store.targets.vocab_size
    for num, most in MOST_BYTES.items():
        alone = TargetSchema(
            vocab_size=vocab_size,
            tokenizer_vocab_size=store.targets.tokenizer_vocab_size,
            temperatures=(1.0,),
            head=EntriesSchema(max_entries=num, step=STEP, form="lists", top_logit=False),
            samples=DrawsSchema(num_draws=num, origin="tail", temperature=1.0, design="threshold"),
            grid_step=GRID_STEP,
        )
        yield Case(f"N = {num}", alone, most)
        labelled = replace(alone, label_logits=True, label_step=LABEL_STEP)
        yield Case(f"N = {num}, label", labelled, most + MOST_LABEL_BYTES)
        if num == DRAWS_OF_TWO:
            draws = DrawsSchema(
                num_draws=num,
                origin="tail",
                temperature=1.0,
                values="steps",
                step=STEP,
                design="threshold",
            )
            two = replace(labelled, temperatures=GRID, samples=draws)
            yield Case(f"N = {num}, label, 2 temperatures", two, MOST_BYTES_OF_TWO)


def keep(logits_CV: torch.Tensor, labels_C: torch.Tensor, seed: int) -> dict[int, SoftTargets]:
    """Return threshold draws at temperature 1 by N, with the grid and every logit."""
    shares_CV, hot_CV = logits_CV.softmax(dim=1), (logits_CV / GRID[1]).softmax(dim=1)
    label_C1 = logits_CV.gather(1, labels_C[:, None])
    ranks_C = (logits_CV > label_C1).sum(dim=1).int().numpy()
    u_C1 = torch.rand(len(shares_CV), 1, generator=torch.Generator().manual_seed(seed))
    top_CK, ids_CK = shares_CV.topk(max(MOST_BYTES), dim=1)
    kept = {}
    for num in MOST_BYTES:
        is_kept_CK = top_CK[:, :num] >= 1 / num
        is_kept_CK[:, 0] = True
        # An id that is not kept stands at the place of the first, which is.
        own_CK = torch.where(is_kept_CK, ids_CK[:, :num], ids_CK[:, :1])
        walk_CV = shares_CV.scatter(1, own_CK, 0).cumsum_(dim=1)
        tails = [walk_CV[:, -1].clone(), hot_CV.scatter(1, own_CK, 0).sum(dim=1)]
        walk_CV.mul_(num).add_(u_C1).floor_()
        drawn_CV = walk_CV.diff(dim=1, prepend=torch.zeros_like(u_C1)) > 0
        logits_CK = logits_CV.gather(1, own_CK).masked_fill_(~is_kept_CK, -torch.inf)
        kept[num] = SoftTargets(
            ids_TK=own_CK.masked_fill_(~is_kept_CK, 0).int().numpy(),
            logits_TK=logits_CK.numpy(),
            num_entries_T=is_kept_CK.sum(dim=1).int().numpy(),
            tail_mass_TG=torch.stack(tails, dim=1).numpy(),
            temperatures=GRID,
            label_logit_T=label_C1[:, 0].numpy(),
            label_rank_T=ranks_C,
            samples=Samples(
                num_samples_T=drawn_CV.sum(dim=1).int().numpy(),
                ids_S=drawn_CV.nonzero()[:, 1].int().numpy(),
                counts_S=np.ones(int(drawn_CV.sum()), np.int32),
                logits_S=logits_CV[drawn_CV].numpy(),
            ),
        )
    return kept


def joined(parts: list[SoftTargets]) -> SoftTargets:
    """Return the targets of several parts as one."""

    def join(one: object, name: str) -> Array:
        return np.concatenate([getattr(part, name) for part in one])  # type: ignore[attr-defined]

    names = ("ids_TK", "logits_TK", "num_entries_T", "tail_mass_TG", "label_logit_T")
    arrays: dict[str, Any] = {name: join(parts, name) for name in (*names, "label_rank_T")}
    samples = [part.samples for part in parts]
    drawn = {name: join(samples, name) for name in ("num_samples_T", "ids_S", "counts_S")}
    return SoftTargets(
        **arrays,
        temperatures=GRID,
        samples=Samples(**drawn, logits_S=join(samples, "logits_S")),
    )


def fitted(targets: SoftTargets, schema: TargetSchema) -> SoftTargets:
    """Return targets without what a schema does not store."""
    assert targets.samples is not None
    assert schema.samples is not None
    samples = targets.samples
    if schema.samples.values == "none":
        samples = replace(samples, logits_S=None)
    return replace(
        targets,
        samples=samples,
        temperatures=schema.temperatures,
        tail_mass_TG=targets.tail_mass_TG[:, : len(schema.temperatures)],
        label_logit_T=targets.label_logit_T if schema.label_logits else None,
        label_rank_T=targets.label_rank_T if schema.label_logits else None,
    )


def threshold_targets(store: Store) -> Iterator[tuple[TokenWindow, dict[int, SoftTargets]]]:
    """Yield the windows of a store with threshold draws of the teacher, by N."""
    teacher = TransformersTeacher(TeacherConfig(name=str(teacher_directory())))
    teacher.load()
    for number, window in enumerate(store):
        with torch.inference_mode():
            ids_1L = torch.from_numpy(window.input_ids_L.astype(np.int64))[None]
            hidden_TD, labels_T = teacher.hidden_states(ids_1L)[0, :-1], ids_1L[0, 1:]
            parts: dict[int, list[SoftTargets]] = {num: [] for num in MOST_BYTES}
            for chunk, hidden_CD in enumerate(hidden_TD.split(64)):
                logits_CV = teacher.logits(hidden_CD).float()
                labels_C = labels_T[64 * chunk : 64 * chunk + len(hidden_CD)]
                for num, one in keep(logits_CV, labels_C, number << 10 | chunk).items():
                    parts[num].append(one)
        yield window, {num: joined(own) for num, own in parts.items()}


def write(store: Store, directory: Path, schema: TargetSchema, windows: list[Window]) -> Store:
    """Write windows with targets of a schema."""
    identity = {**store.manifest.identity, "targets": schema.to_dict()}
    with StoreWriter.hold(directory, identity) as writer:
        writer.write_unit(0, windows, {})
        writer.commit(1, "benchmark", store.manifest.corpus)
    return Store.open(directory)


def parquet_bytes(
    values: np.ndarray, ends: np.ndarray, level: int, *, is_split: bool = True
) -> int:
    """Return what numbers take as a column of lists, a list for each window."""
    offsets = pa.array(np.append(0, ends), pa.int32())
    kind = pa.list_(pa.field("element", pa.int32(), nullable=False))
    lists = pa.ListArray.from_arrays(offsets, pa.array(values.astype(np.int32)), type=kind)
    table = pa.table({"x": lists}, schema=pa.schema([pa.field("x", kind, nullable=False)]))
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=level,
        use_dictionary=False,
        column_encoding={"x.list.element": "BYTE_STREAM_SPLIT" if is_split else "PLAIN"},
    )
    metadata = pq.read_metadata(pa.BufferReader(sink.getvalue()))
    return int(metadata.row_group(0).column(0).total_compressed_size)


def entropy(values: np.ndarray) -> float:
    """Return the order-0 entropy of numbers in bytes, all of them together."""
    _, counts = np.unique(values, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


def other_forms(store: Store) -> Iterator[tuple[str, float]]:
    """Yield what other forms of columns take, in bytes."""
    windows = list(store)
    cells = {
        name: np.concatenate([one.packed.cells[name] for one in windows])
        for name in windows[0].packed.cells
    }
    ends = {name: np.cumsum([len(one.packed.cells[name]) for one in windows]) for name in cells}
    ends["drawn"], targets_end = ends["drawn_ids"], ends["num_entries"]
    num_T, drawn_T = cells["num_entries"], cells["num_drawn"]
    for level in (1, 19):
        for split in (True, False):
            size = parquet_bytes(cells["entry_ids"], ends["entry_ids"], level, is_split=split)
            how = "byte planes" if split else "as they are"
            yield f"entry ids, {how}, level {level}", size
    yield "entry ids, order-0 entropy", entropy(cells["entry_ids"])
    ids_S = np.concatenate([one.targets.samples.ids_S for one in windows if one.targets.samples])
    for name, own in (("gaps", cells["drawn_ids"]), ("plain", ids_S)):
        for level in (1, 19):
            yield f"drawn ids, {name}, level {level}", parquet_bytes(own, ends["drawn"], level)
        yield f"drawn ids, {name}, order-0 entropy", entropy(own)
    yield (
        "all ids in one list, plain, level 19",
        parquet_bytes(
            np.concatenate([cells["entry_ids"], ids_S]), ends["entry_ids"] + ends["drawn"], 19
        ),
    )
    both = num_T * (int(drawn_T.max()) + 1) + drawn_T
    yield "both counts in one number", parquet_bytes(both, targets_end, 19)
    schema = store.targets
    assert schema.samples is not None
    mass_T = np.concatenate([one.targets.tail_mass_TG[:, 0] for one in windows])
    extra = drawn_T - np.floor(mass_T.astype(np.float64) * schema.samples.num_draws)
    yield "number drawn, less floor(N R)", parquet_bytes(extra, targets_end, 19)
    yield "number drawn, less floor(N R), packed bits", len(extra) / 8
    yield from _steps_forms(cells, ends, num_T)
    yield from _grid_forms(cells, targets_end, mass_T)


def _steps_forms(
    cells: Mapping[str, np.ndarray], ends: Mapping[str, np.ndarray], num_T: np.ndarray
) -> Iterator[tuple[str, float]]:
    steps_E = np.zeros(len(cells["entry_ids"]), np.int64)
    starts_T = np.cumsum(num_T) - num_T
    is_later_E = np.ones(len(steps_E), np.bool_)
    is_later_E[starts_T] = False
    steps_E[is_later_E] = cells["entry_steps"]
    for level in (1, 19):
        size = parquet_bytes(cells["entry_steps"], ends["entry_steps"], level)
        yield f"entry steps, differences but the first, level {level}", size
    yield "entry steps, the first too", parquet_bytes(steps_E, ends["entry_ids"], 19)
    walk = np.cumsum(steps_E)
    below = (walk - np.repeat(walk[starts_T] - steps_E[starts_T], num_T))[is_later_E]
    yield "entry steps, below the top", parquet_bytes(below, ends["entry_steps"], 19)
    if "drawn_steps" in cells:
        steps_S, drawn_T = cells["drawn_steps"], cells["num_drawn"]
        for level in (1, 19):
            size = parquet_bytes(steps_S, ends["drawn"], level)
            yield f"drawn steps, below the top, level {level}", size
        lowest_T = (walk - np.repeat(walk[starts_T] - steps_E[starts_T], num_T))[
            np.cumsum(num_T) - 1
        ]
        own = steps_S - np.repeat(lowest_T, drawn_T)
        yield "drawn steps, below the lowest entry", parquet_bytes(own, ends["drawn"], 19)


def _grid_forms(
    cells: Mapping[str, np.ndarray], ends: np.ndarray, mass_T: np.ndarray
) -> Iterator[tuple[str, float]]:
    yield (
        "first tail mass, float32 (as before)",
        parquet_bytes(np.ascontiguousarray(mass_T).view(np.int32), ends, 1),
    )
    if "tail_odds_t2" in cells:
        difference_T = cells["tail_odds_t2"] - cells["tail_odds_t1"]
        yield "second log-odds, less the first", parquet_bytes(difference_T, ends, 19)
        yield "second log-odds, plain", parquet_bytes(cells["tail_odds_t2"], ends, 19)
    if "label_steps" in cells:
        yield "label steps, level 1", parquet_bytes(cells["label_steps"], ends, 1)
        yield "label ranks, level 1", parquet_bytes(cells["label_rank"], ends, 1)
        yield "label ranks, level 19", parquet_bytes(cells["label_rank"], ends, 19)


def show(store: Store, case: Case, console: Console) -> bool:
    """Print a store's bytes by column, and whether they are few enough."""
    count = store.num_positions
    sizes = {name: size / count for name, size in column_bytes(store).items()}
    total = store.num_bytes / count
    holds = total <= case.most_bytes
    lists = [one.targets for one in store]
    entries = sum(int(one.num_entries_T.sum()) for one in lists) / count
    drawn = sum(len(one.samples.ids_S) for one in lists if one.samples) / count
    console.print(
        f"{'met   ' if holds else 'MISSED'} {case.name}: {total:.2f} bytes/target of at most "
        f"{case.most_bytes:g}; {entries:.2f} entries, {drawn:.2f} drawn"
    )
    console.print(
        "       " + ", ".join(f"{name} {size:.2f}" for name, size in sizes.items() if size >= 0.005)
    )
    return holds


def show_forms(store: Store, name: str, console: Console) -> None:
    """Print what other forms would take."""
    table = Table(title=f"other forms, {name}")
    table.add_column("form")
    table.add_column("bytes/target", justify="right")
    for form, size in other_forms(store):
        table.add_row(form, f"{size / store.num_positions:.3f}")
    console.print(table)


def topk_cases(store: Store) -> Iterator[Case]:
    """Yield top-k 64 in the old form and in the new."""
    schema = store.targets
    assert schema.head is not None
    yield Case("top-k, as format 1.2 has it", schema, np.inf)
    steps = replace(schema, grid_step=GRID_STEP, label_step=LABEL_STEP)
    yield Case("top-k, grid and label in steps", steps, MOST_TOPK_BYTES)
    bare = replace(steps, head=replace(schema.head, top_logit=False))
    yield Case("top-k, the same without top logit", bare, MOST_TOPK_BYTES)
    lists = replace(bare, head=replace(schema.head, form="lists", top_logit=False))
    yield Case("top-k, the same in lists", lists, MOST_TOPK_BYTES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=36_864)
    arguments = parser.parse_args()
    console, holds = Console(highlight=False, width=150), []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        store = make_store(directory, arguments.tokens)
        kept = list(threshold_targets(store))
        for index, case in enumerate(cases(store)):
            assert case.schema.samples is not None
            num = case.schema.samples.num_draws
            windows = [
                Window.of(window, pack(fitted(own[num], case.schema), case.schema))
                for window, own in kept
            ]
            written = write(store, directory / f"{index}", case.schema, windows)
            holds.append(show(written, case, console))
            if len(case.schema.temperatures) > 1 or not case.schema.label_logits:
                show_forms(written, case.name, console)
        for index, case in enumerate(topk_cases(store)):
            windows = [Window.of(one, pack(one.targets, case.schema)) for one in store]
            written = write(store, directory / f"topk{index}", case.schema, windows)
            holds.append(show(written, case, console))
    sys.exit(not all(holds))


if __name__ == "__main__":
    main()
