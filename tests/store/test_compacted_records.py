"""Records of many units in one file: what it saves, and when it does not count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from softtargets import verify
from softtargets.capture import build, build_range, commit
from softtargets.capture.identity import describe_build
from softtargets.places import Directory, Place
from softtargets.store import clean_store, unit_records
from softtargets.store.shard_table import ShardEntry
from softtargets.store.writer import StoreWriter
from tests.capture.test_resume import StopError, stop_after_units
from tests.fakes import FakeTeacher, build_config, build_store, shard_bytes
from tests.places.test_toy_place import InMemory
from tests.store.test_unit_records import Conditional, entry_of


class Counting(Conditional):
    """A dictionary that counts what it is asked for, and whose listings tell sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()

    def size(self, path: str) -> int | None:
        self.requests["size"] += 1
        return super().size(path)

    def get(self, path: str, sha256: str | None = None) -> bytes | None:
        self.requests["get"] += 1
        return super().get(path)

    def list(self, directory: str) -> list[str]:
        self.requests["list"] += 1
        return super().list(directory)

    def sizes(self, directory: str) -> dict[str, int]:
        paths = self.list(directory)
        return {path: len(self.files[path]) for path in paths if path in self.files}


@pytest.fixture
def identity(tmp_path: Path) -> Mapping[str, Any]:
    return describe_build(build_config(tmp_path), FakeTeacher())


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_records, "COMPACTED_UNITS", 2)


def record(
    place: Place, identity: Mapping[str, Any], num_units: int, text: bytes = b"unit"
) -> dict[int, ShardEntry]:
    """Record units as a build does."""
    entries = {}
    with StoreWriter.hold(place, identity) as writer:
        for unit in range(num_units):
            content = b"%s %d" % (text, unit)
            entries[unit] = writer.record(entry_of(content, unit), content)
            writer.note(entries[unit])
    return entries


def compacted(place: Place) -> list[str]:
    return [path for path in place.list("work/records") if "compacted" in path]


def test_going_on_costs_what_is_left(identity: Mapping[str, Any]) -> None:
    """Two listings, a file for each thousand units, and one for each of the others."""
    place = Counting()
    entries = record(place, identity, 3_020)
    assert len(compacted(place)) == 3
    with StoreWriter.hold(place, identity) as writer:
        place.requests.clear()
        assert writer.recorded() == entries
        assert place.requests == {"list": 2, "get": 3 + 20}


def test_records_of_an_earlier_release_are_read_once(identity: Mapping[str, Any]) -> None:
    place = Counting()
    entries = record(place, identity, 2_030)
    for path in compacted(place):
        place.delete(path)
    with StoreWriter.hold(place, identity) as writer:
        for expected in (2_030, 2 + 30):
            place.requests.clear()
            assert writer.recorded() == entries
            assert place.requests == {"list": 2, "get": expected}


@pytest.mark.usefixtures("_few")
@pytest.mark.parametrize("is_directory", [True, False])
def test_a_copy_does_not_outlive_its_record(
    tmp_path: Path, identity: Mapping[str, Any], *, is_directory: bool
) -> None:
    """The unit is run again elsewhere: as many bytes under the same name, and other ones."""
    place = Directory(tmp_path / "store") if is_directory else Conditional()
    entries = record(place, identity, 4)
    assert len(compacted(place)) == 2
    with StoreWriter.hold(place, identity) as writer:
        place.delete(f"work/records/unit-{1:06d}.json")
        del entries[1]
        assert writer.recorded() == entries
        entries[1] = writer.record(entry_of(b"UNIT 1", 1), b"UNIT 1")
        assert writer.recorded() == entries


@pytest.mark.usefixtures("_few")
@pytest.mark.parametrize("is_directory", [True, False])
def test_a_copy_does_not_outlive_its_shard(
    tmp_path: Path, identity: Mapping[str, Any], *, is_directory: bool
) -> None:
    place = Directory(tmp_path / "store") if is_directory else Conditional()
    entries = record(place, identity, 4)
    with StoreWriter.hold(place, identity) as writer:
        gone = entries.pop(1)
        place.delete(gone.path)
        assert writer.recorded() == entries
        entries[1] = writer.record(entry_of(b"UNIT 1", 1), b"UNIT 1")
        if not is_directory:
            # By a process that was thought dead.
            place.put(gone.path, b"unit 1")
        assert writer.recorded() == entries


@pytest.mark.usefixtures("_few")
def test_a_copy_that_is_damaged_or_of_another_store_is_none(identity: Mapping[str, Any]) -> None:
    place, other = InMemory(), InMemory()
    entries = record(place, identity, 4)
    others = record(other, {**identity, "unit_tokens": 101}, 2, b"another")
    [foreign] = compacted(other)
    for path in compacted(place):
        place.files[path] = place.files[path][:-1]
    place.files[foreign] = other.files[foreign]
    place.files |= {entry.path: other.files[entry.path] for entry in others.values()}
    with StoreWriter.hold(place, identity) as writer:
        assert writer.recorded() == entries


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    (tmp_path / "whole").mkdir()
    return build_store(tmp_path / "whole").root


def check_same(store: Path, whole: Path) -> None:
    """Check that a store is as good as another, and that nothing else is there."""
    assert shard_bytes(store) == shard_bytes(whole)
    assert (store / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()
    names = sorted(path.name for path in store.iterdir())
    assert names == ["README.md", "manifest.json", "shards", "vocabulary.parquet"]
    assert verify(store).is_sound


@pytest.mark.slow
@pytest.mark.usefixtures("_few")
def test_a_build_is_stopped_cleaned_and_gone_on_with(tmp_path: Path, whole: Path) -> None:
    config = build_config(tmp_path)
    with pytest.raises(StopError):
        build(config, FakeTeacher(), stop_after_units(config, 3))
    place = Directory(config.output)
    found = compacted(place)
    assert found
    assert clean_store(config.output, dry_run=True) == clean_store(config.output) == []
    assert compacted(place) == found
    assert build(config, FakeTeacher()).num_units_before == 3
    check_same(config.output, whole)


@pytest.mark.slow
@pytest.mark.usefixtures("_few")
def test_a_store_of_ranges_is_committed(tmp_path: Path, whole: Path) -> None:
    config = build_config(tmp_path)
    build_range(config, FakeTeacher(), 0, 3)
    build_range(config, FakeTeacher(), 2, None)
    assert len(compacted(Directory(config.output))) >= 2
    commit(config.output)
    check_same(config.output, whole)
