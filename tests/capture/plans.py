"""Corpora to plan, and plans without builds, made at once or in stages of many small parts."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softtargets.capture import BuildConfig, Corpus, Teacher, piece_keys, planning, planning_jobs
from softtargets.capture.identity import describe_build
from softtargets.capture.planning import make_plan
from softtargets.capture.stored_weights import read_weights
from softtargets.engines import Engine, InProcess
from softtargets.places import Place
from softtargets.places.open_place import place_to_write
from softtargets.store.writer import StoreWriter
from tests.fakes import TEXTS, build_config, write_corpus


def plan_files(
    config: BuildConfig, teacher: Teacher, output: Path | Place, engine: Engine | None = None
) -> dict[str, bytes | None]:
    """Plan a build, or go on with that, and return the files of the plan."""
    identity = describe_build(config, teacher, read_weights(config, teacher))
    place = place_to_write(output)
    with StoreWriter.hold(place, identity) as writer:
        make_plan(config, teacher, writer, engine or InProcess())
        paths = [*place.list("work/plan"), "work/plan.json"]
        return {path: place.get(path) for path in paths}


def plan_at_once(config: BuildConfig, teacher: Teacher, output: Path) -> dict[str, bytes | None]:
    """Plan as a small corpus is planned, and return the files of the plan."""
    assert planning.is_planned_at_once(config)
    return plan_files(replace(config, output=output), teacher, output)


def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let slices, chunks, partitions, runs and what is sorted at a time be small."""
    monkeypatch.setattr(planning, "AT_ONCE_BYTES", 1)
    monkeypatch.setattr(planning, "SLICE_BYTES", 1)
    monkeypatch.setattr(planning, "_PARTITION_BYTES", 1)
    monkeypatch.setattr(planning, "_MOST_PARTITIONS", 4)
    monkeypatch.setattr(planning_jobs, "_CHUNK_PIECES", 3)
    monkeypatch.setattr(piece_keys, "RUN_KEYS", 4)
    monkeypatch.setattr(piece_keys, "MOST_KEYS", 2)


def write_files(directory: Path) -> tuple[Path, ...]:
    """Write files of every kind, which repeat each other and themselves."""
    directory.mkdir(exist_ok=True)
    rng = random.Random(0)
    texts = [
        " ".join(rng.choices(TEXTS, k=rng.randint(1, 3)))[: rng.randint(1, 90)] for _ in range(24)
    ]
    texts += [text[:-16] for text in texts[::3]] + ["", "a", *texts[:6]]
    (directory / "a.txt").write_text(TEXTS[0])
    write_corpus(directory / "b.jsonl", texts[:10])
    with gzip.open(directory / "c.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts[5:20])
    pq.write_table(pa.table({"text": texts[10:]}), directory / "d.parquet", row_group_size=4)
    # Windows of two files of one name may be packed together.
    (directory / "more").mkdir(exist_ok=True)
    write_corpus(directory / "more/b.jsonl", texts[:3])
    names = ("a.txt", "b.jsonl", "more/b.jsonl", "c.jsonl.gz", "d.parquet", "b.jsonl")
    return tuple(directory / name for name in names)


def files_config(directory: Path, **changes: Any) -> BuildConfig:
    corpus = Corpus(paths=write_files(directory / "corpus"))
    return build_config(directory, **({"corpus": corpus} | changes))
