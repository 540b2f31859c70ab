"""A record is written once, whoever comes late, and names bytes that nobody replaces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from softtargets import Store, verify
from softtargets.capture import build
from softtargets.capture.identity import describe_build
from softtargets.capture.units import ScoringJob
from softtargets.engines import Done
from softtargets.errors import FormatError, IdentityError, StoreError
from softtargets.hashes import hash_bytes
from softtargets.places.directory import Directory
from softtargets.store.shard_table import RowGroup, ShardEntry
from softtargets.store.writer import StoreWriter
from tests.fakes import FakeTeacher, build_config, shard_bytes
from tests.places.conformance import by_number
from tests.places.test_toy_place import InMemory

RECORD = "work/records/unit-000000.json"


class Conditional(InMemory):
    """A dictionary that keeps its promises among threads."""

    def has_conditional_puts(self) -> bool:
        return True


def entry_of(content: bytes, unit: int = 0) -> ShardEntry:
    group = RowGroup(
        num_windows=1, num_positions=1, offset=0, num_bytes=len(content) - 1, xxh3="0" * 16
    )
    return ShardEntry(
        unit=unit, path=f"shards/unit-{unit:06d}.parquet", num_bytes=len(content),
        sha256=hash_bytes(content), footer_bytes=1, footer_xxh3="0" * 16, row_groups=(group,),
        run={},
    )  # fmt: skip


@pytest.fixture
def place() -> InMemory:
    return Conditional()


@pytest.fixture
def identity(tmp_path: Path) -> Mapping[str, Any]:
    return describe_build(build_config(tmp_path), FakeTeacher())


def test_the_first_record_counts(place: InMemory, identity: Mapping[str, Any]) -> None:
    with StoreWriter.hold(place, identity) as first, StoreWriter.hold(place, identity) as late:
        counts = first.record(entry_of(b"first bytes"), b"first bytes")
        assert counts.path == f"shards/unit-000000-{hash_bytes(b'first bytes')[:16]}.parquet"
        before = place.files[RECORD]
        assert late.record(entry_of(b"late bytes"), b"late bytes") == counts
        assert late.read_record(0) == first.read_record(0) == counts
        assert place.files[RECORD] == before
        assert place.files[counts.path] == b"first bytes"


def test_records_beyond_the_plan_are_not_of_it(
    place: InMemory, identity: Mapping[str, Any]
) -> None:
    with StoreWriter.hold(place, identity) as writer:
        for unit in (7, 0):
            writer.record(entry_of(b"some bytes", unit), b"some bytes")
        assert [entry.unit for entry in writer._records.of_plan(2)] == [0]
        assert [entry.unit for entry in writer._records.of_plan(8)] == [0, 7]


def test_a_record_whose_shard_is_gone_gives_way(
    place: InMemory, identity: Mapping[str, Any]
) -> None:
    with StoreWriter.hold(place, identity) as writer:
        place.delete(writer.record(entry_of(b"first"), b"first").path)
        assert writer.recorded() == {}
        counts = writer.record(entry_of(b"second"), b"second")
        assert writer.recorded() == {0: counts}


def test_a_record_of_another_store_is_none(place: InMemory, identity: Mapping[str, Any]) -> None:
    """It gives way to the store that is built here, and does not take its place."""
    other = {**identity, "unit_tokens": 101}
    with StoreWriter.hold(place, identity) as writer:
        writer.record(entry_of(b"ours"), b"ours")
        record = json.loads(place.files[RECORD])
        place.files[RECORD] = json.dumps({**record, "fingerprint": "0" * 64}).encode()
        assert writer.recorded() == {}
        counts = writer.record(entry_of(b"again"), b"again")
        assert writer.recorded() == {0: counts}
        late = StoreWriter(place, other)
        with pytest.raises(IdentityError):
            late.record(entry_of(b"late"), b"late")
        assert writer.recorded() == {0: counts}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Conditional, InMemory])
def test_a_build_begun_with_fixed_names_goes_on(tmp_path: Path, kind: type[InMemory]) -> None:
    """Earlier releases named shards by number everywhere, and put no fingerprint into records."""
    place, config = kind(), build_config(tmp_path)
    whole = build(config, FakeTeacher()).store
    begun = InMemory()
    begun.has_locks = True
    with StoreWriter.hold(begun, whole.manifest.identity) as writer:
        for entry in whole.manifest.shards[:2]:
            writer.record(entry, (whole.root / entry.path).read_bytes())
    place.files.update(begun.files)
    result = build(config, FakeTeacher(), place=place)
    assert result.num_units_before == 2
    names = [entry.path for entry in result.store.manifest.shards]
    assert ["-" in name.removeprefix("shards/unit-") for name in names[:3]] == [False, False, True]
    assert verify(Store.open(place)).is_sound
    expected = {path: (whole.root / path).read_bytes() for path in by_number(place.files)}
    assert by_number(place.files) == expected


def test_who_is_late_finds_the_store_committed(tmp_path: Path) -> None:
    """Records and plan are gone by then; the manifest says what they said."""
    place, config = Conditional(), build_config(tmp_path)
    with StoreWriter.hold(place, describe_build(config, FakeTeacher())) as late:
        store = build(config, FakeTeacher(), place=place).store
        before = dict(place.files)
        assert late.recorded() == {}
        for entry in store.manifest.shards:
            assert late.read_record(entry.unit) == entry
        assert late.commit(len(store.manifest.shards), "fake", {}) == store.manifest
        with late.turns.planning():
            assert place.size("work/plan.json") is None
    assert place.files == {path: before[path] for path in before if not path.startswith("work/")}


@pytest.mark.slow
def test_a_unit_that_is_begun_when_the_store_is_committed_is_done(tmp_path: Path) -> None:
    """The windows that were planned are gone by then."""
    place, config, teacher = Conditional(), build_config(tmp_path), FakeTeacher()
    with StoreWriter.hold(place, describe_build(config, teacher)) as late:
        store = build(config, teacher, place=place).store
        job = ScoringJob(
            teacher=teacher, task=config.capture_task, writer=late, selection=config.selection,
            batch_tokens=64,
        )  # fmt: skip
        shards = store.manifest.shards
        assert list(job.run([1, 0])) == [Done(shards[1]), Done(shards[0])]
        place.files = {path: b"" for path in place.files if path == "work/request.json"}
        with pytest.raises(FormatError, match="a unit that was planned; found no file"):
            list(job.run([0]))


def test_in_a_directory_too_the_first_record_counts(
    tmp_path: Path, identity: Mapping[str, Any]
) -> None:
    """The late process was thought dead: it holds nothing any more."""
    output, late = tmp_path / "store", StoreWriter(tmp_path / "store", identity)
    with StoreWriter.hold(output, identity) as first:
        counts = first.record(entry_of(b"first bytes"), b"first bytes")
        assert late.record(entry_of(b"late bytes"), b"late bytes") == counts
        assert (output / counts.path).read_bytes() == b"first bytes"
        assert sorted(path.name for path in (output / "work/records").iterdir()) == [
            Path(RECORD).name
        ]
        (output / counts.path).unlink()
        counts = late.record(entry_of(b"again"), b"again")
        assert first.recorded() == {0: counts}


def test_in_a_directory_nobody_replaces_what_is_committed(tmp_path: Path) -> None:
    config = build_config(tmp_path)
    store = build(config, FakeTeacher()).store
    before = shard_bytes(store.root)
    late = StoreWriter(config.output, store.manifest.identity)
    with pytest.raises(StoreError, match="a build that is at work; found one that others have"):
        late.record(entry_of(b"late bytes"), b"late bytes")
    assert shard_bytes(store.root) == before


def test_writers_of_a_unit_in_a_directory_wait_for_each_other(
    tmp_path: Path, identity: Mapping[str, Any]
) -> None:
    """One that stops while it writes keeps others from writing the same unit, and no other."""
    place = Directory(tmp_path / "store")
    with StoreWriter.hold(place, identity) as first, ThreadPoolExecutor() as thread:
        with place.lock(RECORD.replace(".json", ".lock")):
            waiting = thread.submit(first.record, entry_of(b"content"), b"content")
            assert first.record(entry_of(b"other", 1), b"other").unit == 1
            assert not waiting.done()
            assert first.recorded().keys() == {1}
        assert waiting.result().unit == 0
        assert first.recorded().keys() == {0, 1}


def test_another_store_takes_the_place_of_one_that_nothing_came_of(tmp_path: Path) -> None:
    place, config = Conditional(), build_config(tmp_path)
    identity = describe_build(config, FakeTeacher())
    with StoreWriter.hold(place, {**identity, "unit_tokens": 101}):
        with pytest.raises(IdentityError, match="1 other processes work there, or died there"):
            build(config, FakeTeacher(), place=place)
        assert len(place.list("work/workers")) == 1
    assert list(place.files) == ["work/request.json"]
    assert build(config, FakeTeacher(), place=place).num_units_before == 0
    with pytest.raises(IdentityError), StoreWriter.hold(place, {**identity, "unit_tokens": 101}):
        pass


def test_a_commit_finds_another_store_in_its_place(
    tmp_path: Path, identity: Mapping[str, Any], place: InMemory
) -> None:
    with StoreWriter.hold(place, identity) as late:
        late.record(entry_of(b"content"), b"content")
        other = build(build_config(tmp_path, unit_tokens=200), FakeTeacher()).store
        place.files["manifest.json"] = (other.root / "manifest.json").read_bytes()
        with pytest.raises(IdentityError):
            late.commit(1, "fake", {})


def test_a_place_without_conditions_is_told_of(tmp_path: Path, logged: list[str]) -> None:
    build(build_config(tmp_path), FakeTeacher(), place=InMemory())
    assert any("memory: this place knows no conditional writes" in one for one in logged)
