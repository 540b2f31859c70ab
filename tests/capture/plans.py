"""Plans without their builds, made at once or in stages of many small parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from softtargets.capture import BuildConfig, Teacher, piece_keys, planning, planning_jobs
from softtargets.capture.identity import describe_build
from softtargets.capture.planning import make_plan
from softtargets.capture.stored_weights import read_weights
from softtargets.engines import Engine, InProcess
from softtargets.places import Place
from softtargets.places.open_place import place_to_write
from softtargets.store.writer import StoreWriter


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
