"""Several processes that compare a store with its teacher: the same report, whoever ran a unit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from softtargets.capture import Draws, Hybrid, Threshold, rescore, rescore_job
from softtargets.engines import Processes
from softtargets.errors import StoreError, TeacherError
from softtargets.store import Store
from tests.capture.test_workers import Allergic, Dying, Unloadable
from tests.commands import run
from tests.fakes import FakeTeacher, build_store

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "changes",
    [
        {"values": "float32"},
        {"selection": Threshold(draws=Draws(num=12))},
        {"selection": Hybrid(k=4), "temperatures": (1.0,)},
    ],
)
def test_two_processes_report_what_one_does(tmp_path: Path, changes: dict[str, Any]) -> None:
    store = build_store(tmp_path, **changes)
    here = rescore(store, FakeTeacher(), 20)
    assert here.num_windows == 20
    assert rescore(store, FakeTeacher(), 20, engine=Processes(2)) == here


@pytest.mark.parametrize(
    "changes", [{"values": "float32"}, {"selection": Threshold(draws=Draws(num=12))}]
)
def test_units_add_up_to_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """The teacher gives a window the same numbers in any batch, but for the order of sums."""
    store = build_store(tmp_path, **changes)
    units = rescore(store, FakeTeacher(), len(store))
    assert len(store) > 2 * rescore_job.UNIT_WINDOWS
    monkeypatch.setattr(rescore_job, "UNIT_WINDOWS", len(store))
    whole = rescore(store, FakeTeacher(), len(store))
    assert units.num_positions == whole.num_positions == store.num_positions
    for own, expected in zip(units.temperatures, whole.temperatures, strict=True):
        assert own.stored.kl == pytest.approx(expected.stored.kl, rel=1e-6)
        assert own.truncation_kl == pytest.approx(expected.truncation_kl, rel=1e-6)
        if expected.draws_deviation is not None:
            assert own.draws_deviation == pytest.approx(expected.draws_deviation, rel=1e-4)


def test_windows_of_processes_that_are_killed_are_compared_by_others(
    tmp_path: Path, store: Store
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    report = rescore(store, Dying(marks, num_deaths=2), 20, engine=Processes(2))
    assert len(list(marks.iterdir())) >= 2
    assert report == rescore(store, FakeTeacher(), 20)


def test_windows_that_end_three_processes_are_reported(tmp_path: Path, store: Store) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    with pytest.raises(StoreError, match=r"windows \d+, .* failed 3 times: its process ended"):
        rescore(store, Dying(marks, num_deaths=99), 20, engine=Processes(2))


def test_a_teacher_that_does_not_load_ends_it(store: Store) -> None:
    with pytest.raises(TeacherError, match="fake: expected weights; found none"):
        rescore(store, Unloadable(), 20, engine=Processes(2))


def test_a_teacher_without_numbers_does_not_hold(store: Store) -> None:
    assert not rescore(store, Allergic(), len(store), engine=Processes(2)).holds


def test_the_command_takes_workers(tmp_path: Path, tiny_teacher: Path) -> None:
    (tmp_path / "text.txt").write_text("Twas brillig, and the slithy toves did gyre. " * 6)
    store = tmp_path / "store"
    built = run(
        "build", "--teacher", tiny_teacher, "--input", tmp_path / "text.txt", "--output", store,
        "--top-k", "8", "--sequence-length", "16",
    )  # fmt: skip
    assert built.exit_code == 0, built.output
    command = ("verify", store, "--rescore", "12", "--teacher", tiny_teacher, "--json")
    one, two = (run(*command, "--workers", number) for number in (1, 2))
    assert one.exit_code == 0, one.output
    assert json.loads(two.output)["rescored"] == json.loads(one.output)["rescored"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--rescore", "3", "--teacher", "x", "--workers", "0"), 1, "--workers: expected a posit"),
        (("--workers", "2"), 2, "are of --rescore"),
        (("--ray-address", "here:1"), 1, "--ray-address: expected --engine ray with it"),
    ],
)
def test_options_without_a_meaning_are_refused(
    store: Store, options: tuple[str, ...], code: int, message: str
) -> None:
    refused = run("verify", store.root, *options)
    assert refused.exit_code == code
    assert message in " ".join(refused.output.split())
