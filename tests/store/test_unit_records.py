"""A record is written once, whoever comes late, and names bytes that nobody replaces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from softtargets import Store, verify
from softtargets.capture import build
from softtargets.capture.identity import describe_build
from softtargets.errors import IdentityError
from softtargets.hashes import hash_bytes
from softtargets.store.shard_table import RowGroup, ShardEntry
from softtargets.store.writer import StoreWriter
from tests.fakes import FakeTeacher, build_config
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
