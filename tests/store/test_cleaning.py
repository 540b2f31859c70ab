"""`clean` removes what dead processes left, and nothing that a store or its build needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from softtargets import Store, verify
from softtargets.capture import build
from softtargets.errors import BusyError, StoreError
from softtargets.store import clean_store
from softtargets.store.leases import Leases
from softtargets.store.writer import StoreWriter
from tests.capture.test_resume import StopError, stop_after, stop_after_units
from tests.commands import run
from tests.fakes import FakeTeacher, build_config, build_store
from tests.places.test_toy_place import InMemory
from tests.store.clocks import Clock
from tests.store.test_unit_records import Conditional
from tests.trees import snapshot

LATE = f"shards/unit-000001-{'0' * 16}.parquet"
AFTER_COMMIT = (
    LATE, f"work/workers/{'0' * 32}", "work/leases/unit-000001", "work/leases/plan",
    "work/records/unit-000001.json", "work/plan/unit-000001.parquet", "work/plan.json",
    f"work/probe-{'0' * 32}",
)  # fmt: skip
OTHERS = ("notes", "work/thesis.tex", "shards/mine.parquet", "shards/unit-000009.parquet",
          f"shards/unit-000001-{'0' * 15}.parquet", "work/workers/mine")  # fmt: skip


def test_exactly_the_store_is_left(tmp_path: Path) -> None:
    place = Conditional()
    build(build_config(tmp_path), FakeTeacher(), place=place)
    store = dict(place.files)
    assert clean_store(place) == []
    for path in (*AFTER_COMMIT, *OTHERS):
        place.put(path, b"{}")
    problems = [one.where for one in verify(Store.open(place)).problems]
    assert f"memory/{LATE}" in problems
    assert sorted(clean_store(place, dry_run=True)) == sorted(AFTER_COMMIT)
    assert set(place.files) == {*store, *AFTER_COMMIT, *OTHERS}
    assert sorted(clean_store(place)) == sorted(AFTER_COMMIT)
    assert place.files == {**store, **dict.fromkeys(OTHERS, b"{}")}
    assert clean_store(place) == []


def test_a_claim_goes_after_the_windows_of_its_unit(tmp_path: Path) -> None:
    """Who claims a unit of a store that is committed must find no windows to read again."""

    class Watched(Conditional):
        def delete(self, path: str) -> None:
            removed.append(path)
            super().delete(path)

    removed: list[str] = []
    place = Watched()
    build(build_config(tmp_path), FakeTeacher(), place=place)
    for path in AFTER_COMMIT:
        place.put(path, b"{}")
    removed.clear()
    clean_store(place)
    claim, windows = "work/leases/unit-000001", "work/plan/unit-000001.parquet"
    assert removed.index(claim) > removed.index(windows)


@pytest.mark.slow
def test_a_build_goes_on_after_it(tmp_path: Path, clock: Clock) -> None:
    """A shard without a record may be about to get one; one that a record does not name is late."""
    whole, place, config = Conditional(), Conditional(), build_config(tmp_path)
    build(config, FakeTeacher(), place=whole)
    with pytest.raises(StopError):
        build(config, FakeTeacher(), stop_after(8), place=place)
    before = dict(place.files)
    records = [path.removeprefix("work/records/")[:11] for path in place.list("work/records")]
    # Units are asked for in an order of each process's own.
    missing = [path for path in (f"unit-{unit:06d}" for unit in range(4)) if path not in records]
    late, about_to = (f"shards/{one[0]}-{'0' * 16}.parquet" for one in (records, missing))
    for path in (late, about_to):
        place.put(path, b"late")
    assert clean_store(place) == [late]
    assert place.files == {**before, about_to: b"late"}
    build(config, FakeTeacher(), place=place)
    assert clean_store(place) == [about_to]
    assert place.files == whole.files


def test_what_live_processes_have_stays(tmp_path: Path, clock: Clock) -> None:
    place = Conditional()
    config = build_config(tmp_path)
    with pytest.raises(StopError):
        build(config, FakeTeacher(), stop_after(8), place=place)
    done = [f"work/leases/{Path(path).stem}" for path in place.list("work/records")]
    begun = sorted({*place.list("work/leases")} - {*done})
    of_dead, of_alive = (f"work/leases/unit-{unit:06d}" for unit in (100, 101))
    dead, alive = Leases(place), Leases(place)
    dead._beat(f"work/workers/{dead._worker}", 0)
    assert dead.claim(of_dead)
    real = clock.sleep

    def sleep(seconds: float) -> None:
        real(seconds)
        alive._beat(f"work/workers/{alive._worker}", int(clock.now))

    clock.sleep = sleep  # type: ignore[method-assign]
    with alive.beating(), alive.hold(of_alive):
        found = clean_store(place)
        assert found == [*begun, of_dead, f"work/workers/{dead._worker}"]
        assert place.list("work/workers") == [f"work/workers/{alive._worker}"]
        # Those of units that are done save others from asking for their records.
        assert place.list("work/leases") == sorted([*done, of_alive])
        assert begun
        assert done


def without_locks(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return what is there, less the files that say who held a lock last, and since when."""
    return {path: one for path, one in snapshot(root).items() if not path.endswith("lock")}


def test_a_directory_loses_what_was_begun_to_be_written(tmp_path: Path) -> None:
    config = build_config(tmp_path)
    with pytest.raises(StopError):
        build(config, FakeTeacher(), stop_after_units(config, 2))
    before = without_locks(config.output)
    temporaries = [
        f"{path}.{0:032x}.tmp" for path in ("shards/unit-000003.parquet", "work/plan.json")
    ]
    for path in temporaries:
        (config.output / path).write_text("begun")
    result = run("clean", config.output, "--dry-run")
    assert result.output.splitlines()[:2] == temporaries
    assert "2 files to remove" in result.output
    result = run("clean", config.output)
    assert "2 files removed" in result.output
    assert without_locks(config.output) == before
    build(config, FakeTeacher())
    assert verify(config.output).is_sound


def test_a_finished_directory_loses_the_work_of_its_build_alone(tmp_path: Path) -> None:
    config, store = build_config(tmp_path), build_store(tmp_path)
    expected = snapshot(store.root)
    (store.root / "work").mkdir()
    (store.root / "work" / "plan.json").write_text("someone's own")
    assert clean_store(store.root) == []
    (store.root / "work" / "plan.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        from softtargets.store.workplace import Workplace

        patch.setattr(Workplace, "clean", lambda _: None)
        (tmp_path / "second").mkdir()
        other = build_store(tmp_path / "second")
    assert "work/request.json" in clean_store(other.root)
    assert snapshot(other.root) == expected
    assert build(config, FakeTeacher()).was_complete


def test_a_build_at_work_is_left_alone(tmp_path: Path) -> None:
    config = build_config(tmp_path)
    build_store(tmp_path)
    identity = Store.open(config.output).manifest.identity
    with StoreWriter.hold(tmp_path / "other", identity), pytest.raises(BusyError):
        clean_store(tmp_path / "other")


def test_there_has_to_be_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="or a directory in which one is being built"):
        clean_store(InMemory())
    result = run("clean", tmp_path)
    assert result.exit_code == 1
    assert list(tmp_path.iterdir()) == []
