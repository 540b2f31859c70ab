"""Some schedules of random faults; `python -m tests.benchmarks.schedules` runs many."""

from __future__ import annotations

from pathlib import Path

import pytest

from softtargets.places import retries
from softtargets.store import leases
from tests.schedules import PERIOD, Expected, draw, run_schedule

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "PERIOD_SECONDS", PERIOD)
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    return Expected.build(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("seed", range(3))
def test_whatever_goes_wrong_it_is_the_undisturbed_store(
    tmp_path: Path, conditional_server: int, expected: Expected, seed: int
) -> None:
    outcome = run_schedule(draw(seed), expected, conditional_server, tmp_path)
    assert outcome.problems == []
    assert outcome.faults.total() > 5
