"""Stores that are built on Ray are the same, wherever they lie and whatever happens meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from softtargets import Store, verify
from softtargets.capture import BuildConfig, BuildResult, Progress, build, build_range, commit
from softtargets.engines import RayActors, actor_pool
from softtargets.errors import BusyError, InputError, StoreError, TeacherError
from softtargets.places import Place, place_to_write, retries
from softtargets.store import clean_store, leases
from tests.capture.test_ranges import Marking, start
from tests.capture.test_shared_places import PERIOD, hurry
from tests.capture.test_workers import Allergic, Dying, DyingAtLoad, Unloadable
from tests.fakes import FakeTeacher, build_config, build_store
from tests.places.conformance import by_number, contents
from tests.ray_engine.conftest import NODE

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beat often, and wait hardly at all before another attempt."""
    monkeypatch.setattr(leases, "PERIOD_SECONDS", PERIOD)
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes | None]:
    """The files of the same store, built in this process."""
    (tmp_path / "whole").mkdir()
    return contents(build_store(tmp_path / "whole").location)


@pytest.fixture(params=["directory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "directory":
        return place_to_write(tmp_path / "store")
    return place_to_write(request.getfixturevalue("object_url"))


class Deadly(FakeTeacher):
    """A teacher whose process is killed by windows with a certain text in them."""

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        for ids in input_ids_BL.tolist():
            if Allergic.text in bytes(ids):
                os.kill(os.getpid(), signal.SIGKILL)
        return super().hidden_states(input_ids_BL)


class StoppingOnce(FakeTeacher):
    """A teacher whose process is stopped at its second batch, the first time."""

    def __init__(self, mark: Path) -> None:
        super().__init__()
        self.mark, self.num_batches = mark, 0

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        self.num_batches += 1
        if self.num_batches == 2 and not self.mark.exists():
            self.mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().hidden_states(input_ids_BL)


class Doomed(FakeTeacher):
    """A teacher that hangs on one node, and waits on others until it does."""

    def __init__(self, mark: Path, node: str) -> None:
        super().__init__()
        self.mark, self.node = mark, node

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        import ray

        if ray.get_runtime_context().get_node_id() == self.node:
            self.mark.touch()
            signal.pause()
        while not self.mark.exists():
            time.sleep(0.01)
        return super().hidden_states(input_ids_BL)


@pytest.fixture
def third_node(cluster: Any) -> Iterator[Any]:
    node = cluster.add_node(**NODE)
    yield node
    with suppress(ValueError, KeyError):
        cluster.remove_node(node, allow_graceful=False)


def test_the_store_is_the_same(
    cluster: Any, tmp_path: Path, place: Place, expected: dict[str, bytes | None]
) -> None:
    """No actor sees the corpus: it is gone before the first begins."""
    config, seen = build_config(tmp_path), list[Progress]()

    def note(progress: Progress) -> None:
        seen.append(progress)
        (tmp_path / "corpus.jsonl").unlink(missing_ok=True)

    store = build(config, FakeTeacher(), note, engine=RayActors(2), place=place).store
    assert by_number(contents(place)) == expected
    assert store.fingerprint == Store.open(tmp_path / "whole" / "store").fingerprint
    assert verify(store).is_sound
    assert (seen[0].num_tokens, seen[-1].num_tokens) == (0, seen[-1].all_tokens)


def test_units_of_actors_that_are_killed_are_taken_over(
    cluster: Any, tmp_path: Path, place: Place, expected: dict[str, bytes | None]
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    build(build_config(tmp_path), Dying(marks, num_deaths=2), engine=RayActors(2), place=place)
    assert len(list(marks.iterdir())) >= 2
    clean_store(place)
    assert by_number(contents(place)) == expected


@pytest.mark.parametrize(("teacher", "found"), [(Allergic(), "NaN"), (Deadly(), "died")])
def test_a_unit_that_fails_three_times_is_reported_and_the_others_are_done(
    cluster: Any,
    tmp_path: Path,
    expected: dict[str, bytes | None],
    teacher: FakeTeacher,
    found: str,
) -> None:
    config = build_config(tmp_path)
    with pytest.raises(StoreError, match=r"1 that failed 3 times") as caught:
        build(config, teacher, engine=RayActors(2))
    assert "corpus.jsonl:2" in str(caught.value)
    assert found in str(caught.value)
    result = build_when_free(config, place_to_write(config.output), RayActors(1))
    assert result.num_units - result.num_units_before == 1
    assert contents(result.store.location) == expected


@pytest.mark.parametrize(
    ("teacher", "error", "message"),
    [
        (Unloadable(), TeacherError, "fake: expected weights; found none"),
        (DyingAtLoad(), StoreError, "workers that load the teacher; found "),
    ],
)
def test_a_teacher_that_does_not_load_ends_the_build(
    cluster: Any, tmp_path: Path, teacher: FakeTeacher, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build(build_config(tmp_path), teacher, engine=RayActors(1))


def test_an_interruption_leaves_no_actor_and_no_unit_half(
    cluster: Any, tmp_path: Path, expected: dict[str, bytes | None]
) -> None:
    config = build_config(tmp_path)

    def interrupt(progress: Progress) -> None:
        if progress.num_tokens > 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(config, FakeTeacher(), interrupt, engine=RayActors(2))
    place = place_to_write(config.output)
    build_when_free(config, place, RayActors(1))
    assert contents(place) == expected


def test_units_of_a_node_that_is_removed_are_taken_over(
    cluster: Any,
    third_node: Any,
    tmp_path: Path,
    place: Place,
    expected: dict[str, bytes | None],
) -> None:
    """One actor on each of three nodes, which takes all of it; one goes while it has units."""
    mark = tmp_path / "mark"

    def remove() -> None:
        wait_for(mark)
        cluster.remove_node(third_node, allow_graceful=False)

    thread = Thread(target=remove)
    thread.start()
    teacher = Doomed(mark, third_node.node_id)
    engine = RayActors(3, cpus_per_worker=NODE["num_cpus"])
    build(build_config(tmp_path), teacher, engine=engine, place=place)
    thread.join()
    clean_store(place)
    assert by_number(contents(place)) == expected


def test_a_stopped_actor_counts_as_dead(
    cluster: Any,
    tmp_path: Path,
    place: Place,
    expected: dict[str, bytes | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(actor_pool, "PERIOD_SECONDS", 1.0)
    mark = tmp_path / "mark"
    build(build_config(tmp_path), StoppingOnce(mark), engine=RayActors(2), place=place)
    with suppress(ProcessLookupError):
        os.kill(int(mark.read_text()), signal.SIGCONT)
    clean_store(place)
    assert by_number(contents(place)) == expected


def drive(config: BuildConfig, teacher: FakeTeacher, output: str, address: str) -> None:
    hurry()
    build(config, teacher, engine=RayActors(1, address=address), place=place_to_write(output))


def drive_range(config: BuildConfig, teacher: FakeTeacher, output: str, address: str) -> None:
    build_range(config, teacher, 0, None, engine=RayActors(1, address=address))


def wait_for(mark: Path) -> None:
    while not mark.exists():
        time.sleep(0.01)


def build_when_free(config: BuildConfig, place: Place, engine: RayActors) -> BuildResult:
    """Build when nobody holds the directory: actors end some milliseconds after their driver."""
    while True:
        try:
            return build(config, FakeTeacher(), engine=engine, place=place)
        except BusyError:
            time.sleep(0.01)


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_a_driver_that_is_killed_is_started_again(
    cluster: Any,
    tmp_path: Path,
    object_url: str,
    expected: dict[str, bytes | None],
    kind: str,
) -> None:
    output = object_url if kind == "s3" else str(tmp_path / "store")
    config, mark = build_config(tmp_path), tmp_path / "mark"
    dying = start(drive, config, StoppingOnce(mark), output, cluster.address)
    wait_for(mark)
    os.kill(dying.pid, signal.SIGKILL)
    dying.join()
    place = place_to_write(output)
    build_when_free(config, place, RayActors(2))
    clean_store(place)
    assert by_number(contents(place)) == expected


def test_drivers_at_once_share_the_units(
    cluster: Any, tmp_path: Path, object_url: str, expected: dict[str, bytes | None]
) -> None:
    config, read = build_config(tmp_path), tmp_path / "batches"
    teacher = Marking(read)
    processes = [start(drive, config, teacher, object_url, cluster.address) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    batches = read.read_text().splitlines()
    assert len(batches) == len(set(batches))
    assert by_number(contents(place_to_write(object_url))) == expected


def test_drivers_of_ranges_share_a_directory(
    cluster: Any, tmp_path: Path, expected: dict[str, bytes | None]
) -> None:
    config, read = build_config(tmp_path), tmp_path / "batches"
    arguments = (config, Marking(read), str(config.output), cluster.address)
    processes = [start(drive_range, *arguments) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    batches = read.read_text().splitlines()
    assert len(batches) == len(set(batches))
    assert contents(commit(config.output).location) == expected


def test_a_driver_and_its_actor_that_wake_after_their_lease_change_nothing(
    cluster: Any, tmp_path: Path, object_url: str, expected: dict[str, bytes | None]
) -> None:
    config, mark = build_config(tmp_path), tmp_path / "mark"
    zombie = start(drive, config, StoppingOnce(mark), object_url, cluster.address)
    wait_for(mark)
    os.kill(zombie.pid, signal.SIGSTOP)
    place = place_to_write(object_url)
    try:
        build(config, FakeTeacher(), engine=RayActors(1), place=place)
    finally:
        os.kill(int(mark.read_text()), signal.SIGCONT)
        os.kill(zombie.pid, signal.SIGCONT)
    zombie.join()
    assert zombie.exitcode == 0
    clean_store(place)
    assert by_number(contents(place)) == expected


def test_a_place_in_which_actors_would_not_keep_apart_is_refused(
    cluster: Any, tmp_path: Path
) -> None:
    from tests.places.test_toy_place import InMemory

    with pytest.raises(InputError, match="expected a place with locks or conditional writes"):
        build(build_config(tmp_path), FakeTeacher(), engine=RayActors(1), place=InMemory())
