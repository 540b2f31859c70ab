"""Builds in an object store that several processes share, whatever becomes of them."""

from __future__ import annotations

import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest
import torch

from softtargets import Store, verify
from softtargets.capture import BuildConfig, Progress, build, build_range, commit
from softtargets.places import place_to_write, retries
from softtargets.store import clean_store, leases
from softtargets.store.ledger import Ledger
from softtargets.store.side_file import SideFile
from tests.capture.test_ranges import DyingOnce, Marking, start
from tests.capture.test_resume import StopError, stop_after
from tests.fakes import FakeTeacher, build_config, build_store
from tests.object_store import KEY, SECRET, Fault, Proxy
from tests.places.conformance import by_number, contents
from tests.processes import Gate, held

pytestmark = pytest.mark.slow
PERIOD = 0.2


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beat often, and wait hardly at all before another attempt."""
    monkeypatch.setattr(leases, "PERIOD_SECONDS", PERIOD)
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)


def hurry() -> None:
    """Do the same in a process of its own."""
    leases.PERIOD_SECONDS = PERIOD
    retries.FIRST_WAIT = 0.001


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes | None]:
    """The files of the same store in a directory."""
    (tmp_path / "directory").mkdir()
    return contents(build_store(tmp_path / "directory").location)


def test_a_commit_that_another_was_quicker_with_warns_of_nothing(
    tmp_path: Path,
    object_url: str,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[str],
) -> None:
    """It finds the other's card, and no vocabulary any more to make the same one of."""
    place, has_committed = place_to_write(object_url), False
    build_range(build_config(tmp_path), FakeTeacher(), 0, None, place=place)
    read = Ledger._commit_vocabulary

    def read_late(ledger: Ledger) -> SideFile | None:
        nonlocal has_committed
        if not has_committed:
            has_committed = True
            commit(place)
        return read(ledger)

    monkeypatch.setattr(Ledger, "_commit_vocabulary", read_late)
    store = commit(place)
    assert store.manifest.vocabulary is not None
    assert logged == []


class OffTeacher(FakeTeacher):
    """A teacher whose numbers are another kernel's: not the same bytes, and as good."""

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        return super().logits(hidden_ND) * 1.01


def drive(config: BuildConfig, teacher: FakeTeacher, url: str) -> None:
    hurry()
    build(config, teacher, place=place_to_write(url))


def drive_range(config: BuildConfig, teacher: FakeTeacher, url: str) -> None:
    hurry()
    build_range(config, teacher, 0, None, place=place_to_write(url))


def drive_through_gate(config: BuildConfig, teacher: FakeTeacher, url: str, gate: Gate) -> None:
    def wait(progress: Progress) -> None:
        if progress.num_tokens:
            gate()

    hurry()
    build(config, teacher, wait, place=place_to_write(url))


def test_workers_of_a_driver_give_the_same_store(
    tmp_path: Path, object_url: str, expected: dict[str, bytes | None]
) -> None:
    place = place_to_write(object_url)
    build(build_config(tmp_path, workers=2), FakeTeacher(), place=place)
    assert by_number(contents(place)) == expected


def test_drivers_at_once_share_the_units(
    tmp_path: Path, object_url: str, expected: dict[str, bytes | None]
) -> None:
    """They begin with nothing planned; no unit is run twice, and each finds the store complete."""
    config, read = build_config(tmp_path), tmp_path / "batches"
    processes = [start(drive, config, Marking(read), object_url) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    batches = read.read_text().splitlines()
    assert len(batches) == len(set(batches))
    assert by_number(contents(place_to_write(object_url))) == expected


def test_ranges_are_committed(
    tmp_path: Path, object_url: str, expected: dict[str, bytes | None]
) -> None:
    config = build_config(tmp_path)
    processes = [start(drive_range, config, FakeTeacher(), object_url) for _ in range(2)]
    for process in processes:
        process.join()
    place = place_to_write(object_url)
    assert place.list("work/workers") == []
    assert len(commit(place)) == len(Store.open(tmp_path / "directory" / "store"))
    assert by_number(contents(place)) == expected


def test_a_unit_of_a_process_that_is_killed_is_taken_by_another(
    tmp_path: Path, object_url: str, expected: dict[str, bytes | None]
) -> None:
    config, place = build_config(tmp_path), place_to_write(object_url)
    dying = start(drive, config, DyingOnce(tmp_path / "mark"), object_url)
    dying.join()
    assert dying.exitcode == -signal.SIGKILL
    assert len(place.list("work/workers")) == 1
    # The unit that it was at, and the next one if that was asked for, beside the plan.
    units = [path for path in place.list("work/leases") if "/unit-" in path]
    assert len(units) in (1, 2)
    # What lies there meanwhile has no credentials.
    texts = [content or b"" for content in contents(place).values()]
    assert not [text for text in texts if KEY.encode() in text or SECRET.encode() in text]
    build(config, FakeTeacher(), place=place)
    assert by_number(contents(place)) == expected


@pytest.mark.parametrize("teacher", [FakeTeacher(), OffTeacher()])
def test_a_process_that_wakes_after_its_lease_changes_nothing(
    tmp_path: Path, object_url: str, expected: dict[str, bytes | None], teacher: FakeTeacher
) -> None:
    """It is stopped in the middle of a unit, and goes on when the store is committed."""
    config, place = build_config(tmp_path), place_to_write(object_url)
    with held(drive_through_gate, config, teacher, object_url) as zombie:
        os.kill(zombie.pid, signal.SIGSTOP)
        try:
            result = build(config, FakeTeacher(), place=place)
            before = {path: place.get(path) for path in contents(place)}
        finally:
            os.kill(zombie.pid, signal.SIGCONT)
    assert len(result.store) == len(Store.open(tmp_path / "directory" / "store"))
    for path, content in before.items():
        if not path.startswith("work/"):
            assert place.get(path) == content
    # Its shard has the name of the one that is recorded, or of one that nothing names.
    late = [path for path in clean_store(place) if path.startswith("shards/")]
    assert bool(late) == isinstance(teacher, OffTeacher)
    assert by_number(contents(place)) == expected


FAULTS: dict[str, tuple[Literal["error", "cut", "lost", "gone", "twice"], ...]] = {
    "PUT": ("error", "lost", "gone", "twice"),
    "GET": ("error", "cut", "gone"),
    "HEAD": ("error", "gone"),
    "POST": ("error", "lost", "gone", "twice"),
}
"""By method; a POST deletes."""
PATHS = ("records", "shards", "leases", "workers", "plan", "request", "manifest", "vocabulary", "")


def inject_some(proxy: Proxy, rng: random.Random) -> None:
    """Inject faults before and after what the server does, none so often that a client gives up.

    A request has three of the words in its path at most, so it fails six times at most.
    """
    for method, kinds in FAULTS.items():
        for path in rng.sample(PATHS, 6):
            fault = Fault(
                kind=rng.choice(kinds), method=method, path=path,
                times=rng.randint(1, 2), status=rng.choice((500, 503)),
            )  # fmt: skip
            proxy.inject(fault)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_network_does_it_is_the_same_store(
    tmp_path: Path,
    object_url: str,
    object_proxy: Proxy,
    expected: dict[str, bytes | None],
    seed: int,
) -> None:
    """Two drivers at once, of which one is stopped somewhere; then a third."""
    config, rng = build_config(tmp_path), random.Random(seed)
    inject_some(object_proxy, rng)

    def drive_until(most_calls: int) -> None:
        with suppress(StopError):
            build(config, FakeTeacher(), stop_after(most_calls), place=place_to_write(object_url))

    with ThreadPoolExecutor(2) as threads:
        drivers = [threads.submit(drive_until, most) for most in (rng.randint(0, 12), 99)]
        for driver in drivers:
            driver.result()
    assert sum(fault.num_done for fault in object_proxy.faults) > 10
    place = place_to_write(object_url)
    build(config, FakeTeacher(), place=place)
    clean_store(place)
    assert by_number(contents(place)) == expected
    assert verify(Store.open(object_url)).is_sound
