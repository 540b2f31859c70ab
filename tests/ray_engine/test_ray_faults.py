"""Faults of disks, networks and processes while units run on Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from softtargets.capture import build
from softtargets.engines import RayActors
from softtargets.errors import StoreError
from softtargets.places import place_to_write, retries
from softtargets.store import leases
from tests.capture.test_full_disk import Filling
from tests.fakes import build_config, build_store, shard_bytes
from tests.ray_engine.test_ray_stores import build_when_free
from tests.schedules import PERIOD, Expected, draw, run_schedule

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "PERIOD_SECONDS", PERIOD)
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)


def test_a_disk_that_is_full_ends_the_build_and_loses_nothing(
    cluster: Any, tmp_path: Path, small_disk: Path
) -> None:
    (tmp_path / "whole").mkdir()
    expected = shard_bytes(build_store(tmp_path / "whole").root)
    config, filler = build_config(small_disk), small_disk / "filler"
    with pytest.raises(StoreError, match=r"cannot be written: .*No space left on device"):
        build(config, Filling(filler, 3), engine=RayActors(2))
    num_records = len(list((config.output / "work" / "records").glob("unit-*.json")))
    filler.unlink()
    result = build_when_free(config, place_to_write(config.output), RayActors(2))
    assert result.num_units_before == num_records < result.num_units
    assert shard_bytes(config.output) == expected


@pytest.mark.parametrize("seed", range(2))
def test_whatever_goes_wrong_it_is_the_undisturbed_store(
    cluster: Any, tmp_path: Path, conditional_server: int, seed: int
) -> None:
    (tmp_path / "undisturbed").mkdir()
    (tmp_path / "own").mkdir()
    expected = Expected.build(tmp_path / "undisturbed")
    own = tmp_path / "own"
    outcome = run_schedule(draw(seed), expected, conditional_server, own, cluster.address)
    assert outcome.problems == []
    assert outcome.faults.total() > 5
