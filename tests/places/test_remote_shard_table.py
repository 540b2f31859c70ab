"""A table of shards that comes over a network, and one that is committed to an object store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from softtargets import Store, verify
from softtargets.capture import build
from softtargets.errors import CorruptionError
from softtargets.places import place_to_write, retries
from tests.fakes import FakeTeacher, build_config
from tests.golden import GOLDEN
from tests.object_store import Bucket, Fault

STORE = GOLDEN / "shard-table-1.6" / "store"
TABLE = "shards.parquet"


@pytest.mark.slow
def test_a_table_that_arrives_damaged_is_asked_for_again(bucket: Bucket) -> None:
    url = bucket.copy(Store.open(STORE))
    fault = bucket.proxy.inject(Fault(kind="flip", path=TABLE))
    store = Store.open(url)
    assert fault.num_done == 1
    assert store.manifest.shards == Store.open(STORE).manifest.shards
    assert verify(url).is_sound


@pytest.mark.slow
def test_a_damaged_table_in_a_bucket_is_refused(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)
    root = Path(shutil.copytree(STORE, tmp_path / "store"))
    url = bucket.copy(Store.open(root))
    path = bucket.directory / "store" / TABLE
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptionError, match=r"shards\.parquet: expected .* with SHA-256"):
        Store.open(url)


@pytest.mark.slow
def test_a_table_in_an_object_store_is_named_by_its_content(
    object_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softtargets.store.shard_table_file.LISTED_SHARDS", 0)
    place = place_to_write(object_url)
    store = build(build_config(tmp_path), FakeTeacher(), place=place).store
    table = store.manifest.shard_table
    assert table is not None
    assert table.path == f"shards-{table.sha256[:16]}.parquet"
    assert [path for path in place.list("") if path.startswith("shards")] == [
        table.path,
        "shards/",
    ]
    assert verify(object_url).is_sound
