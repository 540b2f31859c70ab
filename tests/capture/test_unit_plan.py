"""The plan of a build: whose it is, what of it is held, and that old ones are read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softtargets.capture import BuildConfig, build, build_range, commit
from softtargets.capture.identity import describe_build
from softtargets.capture.planned_units import PlannedUnits, Unit
from softtargets.capture.unit_plan import Plan, read_plan
from softtargets.errors import FormatError, IdentityError
from softtargets.places import Directory
from softtargets.store.fingerprint import fingerprint_of
from tests.capture.test_resume import StopError, stop_after
from tests.fakes import FakeTeacher, build_config, build_store, shard_bytes


def begun(directory: Path, num_calls: int = 10) -> BuildConfig:
    """Return a build that was interrupted in the middle of its units."""
    config = build_config(directory)
    with pytest.raises(StopError):
        build(config, FakeTeacher(), stop_after(num_calls))
    return config


def plan_of(config: BuildConfig) -> Plan:
    fingerprint = fingerprint_of(describe_build(config, FakeTeacher()))
    plan = read_plan(Directory(config.output), fingerprint)
    assert plan is not None
    return plan


def test_the_units_are_a_table_and_the_plan_counts_them(tmp_path: Path) -> None:
    config = begun(tmp_path)
    plan = plan_of(config)
    record = json.loads((config.output / "work/plan.json").read_text())
    table = pq.read_table(config.output / "work/plan/units.parquet")
    assert record["num_units"] == len(plan.units) == table.num_rows > 3
    assert record["num_tokens"] == plan.num_tokens == plan.corpus["tokens"]
    assert record["num_windows"] == plan.num_windows == plan.corpus["windows"]
    assert table.to_pylist() == [asdict(unit) for unit in plan.units]
    for unit in plan.units:
        path = config.output / f"work/plan/unit-{unit.unit:06d}.parquet"
        assert pq.read_metadata(path).num_rows == unit.num_windows


def test_a_plan_of_an_earlier_release_is_gone_on_with(tmp_path: Path) -> None:
    """It listed the units in JSON, and had no fingerprint."""
    (tmp_path / "whole").mkdir()
    expected = shard_bytes(build_store(tmp_path / "whole").root)
    config = begun(tmp_path)
    plan = plan_of(config)
    old = {
        "units": [asdict(unit) for unit in plan.units],
        "corpus": plan.corpus,
        "teacher": plan.teacher,
    }
    (config.output / "work/plan.json").write_text(json.dumps(old))
    (config.output / "work/plan/units.parquet").unlink()
    assert plan_of(config) == plan
    build(config, FakeTeacher())
    assert shard_bytes(config.output) == expected


def test_the_plan_of_another_store_is_refused(tmp_path: Path) -> None:
    """As a process leaves it that was thought dead, and had begun something else there."""
    (tmp_path / "other").mkdir()
    config, other = begun(tmp_path), build_config(tmp_path / "other", unit_tokens=50)
    with pytest.raises(StopError):
        build(other, FakeTeacher(), stop_after(10))
    for path in ("plan.json", "plan/units.parquet"):
        (config.output / "work" / path).write_bytes((other.output / "work" / path).read_bytes())
    for go_on in (
        lambda: build(config, FakeTeacher()),
        lambda: build_range(config, FakeTeacher(), 0, 1),
        lambda: commit(config.output),
    ):
        with pytest.raises(IdentityError, match=r"plan\.json: expected the plan of the store .*"):
            go_on()


def changed(config: BuildConfig, name: str, value: Any) -> None:
    path = config.output / "work/plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("version", 3, "expected a plan of version 2; found one of 3"),
        ("num_units", 2, "expected {'num_units': 2, "),
        ("num_tokens", 1, "'num_tokens': 1}, as work/plan.json says; found {'num_units': "),
    ],
)
def test_a_plan_that_is_not_as_it_says_is_refused(
    tmp_path: Path, name: str, value: Any, message: str
) -> None:
    config = begun(tmp_path)
    changed(config, name, value)
    with pytest.raises(FormatError) as caught:
        build(config, FakeTeacher())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "found no file"),
        (b"none", "units.parquet: expected the units of a plan; found "),
        ({"unit": [1], "num_windows": [1], "num_tokens": [1]}, "not numbered from 0"),
        ({"unit": [0], "num_windows": [0], "num_tokens": [1]}, "without windows"),
        ({"unit": [0], "num_windows": [1]}, "num_tokens"),
    ],
)
def test_units_that_are_spoiled_are_refused(
    tmp_path: Path, content: bytes | dict[str, list[int]] | None, message: str
) -> None:
    config = begun(tmp_path)
    path = config.output / "work/plan/units.parquet"
    path.unlink()
    if isinstance(content, dict):
        pq.write_table(pa.table(content), path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(FormatError, match="the corpus is planned anew") as caught:
        build(config, FakeTeacher())
    assert message in str(caught.value)


def test_many_units_are_a_few_columns() -> None:
    """A million of them take two numbers each, and no object before one is asked for."""
    numbers = np.arange(1, 1_000_001, dtype=np.int64)
    units = PlannedUnits.decode(PlannedUnits(numbers, numbers * 3).encode())
    assert vars(units).keys() == {"_num_windows", "_num_tokens", "num_windows", "num_tokens"}
    assert len(units) == len(numbers)
    assert units.num_windows * 3 == units.num_tokens == 3 * 500_000_500_000
    assert units[-1] == Unit(unit=999_999, num_windows=1_000_000, num_tokens=3_000_000)
    assert units[2:4] == (units[2], units[3])
    with pytest.raises(IndexError):
        units[1_000_000]
