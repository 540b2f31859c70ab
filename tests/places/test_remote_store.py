"""A store behind a URL: reading, verifying and deriving are what they are of a local one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from softtargets import Store, verify
from softtargets.capture import build
from softtargets.errors import CorruptionError, InputError
from softtargets.store import export_plain, filter_store, merge_stores, split_store
from tests.commands import run
from tests.fakes import FakeTeacher, build_config, build_store, shard_bytes
from tests.object_store import SECRET, Bucket, Fault
from tests.places.store_contents import SHARD, content_of, flip

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_retries")]


def test_a_store_behind_a_url_is_the_same_store(store: Store, bucket: Bucket) -> None:
    there = Store.open(bucket.copy(store))
    assert content_of(there) == content_of(store)
    assert there.manifest == store.manifest
    window = list(store)[5]
    assert content_of([there[window.window_id]]) == content_of([window])
    assert "nothing" not in there
    assert str(there.location) == f"s3://{bucket.name}/store"
    assert repr(there).startswith(f"Store('s3://{bucket.name}/store', {len(store)} windows")
    with pytest.raises(InputError, match="expected a store in a directory of this machine"):
        _ = there.root


def test_only_what_is_needed_is_asked_for_once(store: Store, bucket: Bucket) -> None:
    there = Store.open(bucket.copy(store))
    del bucket.proxy.requests[:]
    before = there.reads
    entry = store.manifest.shards[1]
    [ref] = [ref for ref in store.row_groups if ref.shard == 1]
    for _ in range(2):
        there.read_row_group(ref)
    path = f"/{bucket.name}/store/{SHARD}"
    footer = entry.num_bytes - entry.footer_bytes
    # The size once, as the client of S3 wants it; the footer once; and no byte beside them.
    assert bucket.proxy.requests == [
        ("HEAD", path, None),
        ("GET", path, footer),
        ("GET", path, 0),
        ("GET", path, 0),
    ]
    fetched = (there.reads - before).fetched_bytes
    assert fetched == entry.footer_bytes + 2 * entry.row_groups[0].num_bytes


def test_verify_reads_a_remote_store_once(store: Store, bucket: Bucket) -> None:
    url = bucket.copy(store)
    report = verify(url)
    assert report.is_sound
    assert report.num_windows == len(store)
    gets = [path for method, path, _ in bucket.proxy.requests if method == "GET"]
    shards = [f"/{bucket.name}/store/{entry.path}" for entry in store.manifest.shards]
    assert [path for path in gets if path in shards] == shards
    directory = bucket.directory / "store"
    (directory / "shards" / "other.parquet").write_bytes(b"")
    with open(directory / SHARD, "ab") as file:
        file.write(b"more")
    size = store.manifest.shards[1].num_bytes
    where = f"s3://{bucket.name}/store"
    for fast in (False, True):
        found = {(one.where, one.found) for one in verify(Store.open(url), fast=fast).problems}
        assert found == {
            (f"{where}/shards/other.parquet", "another file"),
            (f"{where}/{SHARD}", f"{size + 4:,} bytes"),
        }


def test_commands_read_remote_stores(store: Store, bucket: Bucket, tmp_path: Path) -> None:
    url = bucket.copy(store)
    assert f"s3://{bucket.name}/store" in run("info", url).output.replace("\n", "")
    assert json.loads(run("info", "--json", url).output)["path"] == f"s3://{bucket.name}/store"
    verified = run("verify", url)
    assert verified.exit_code == 0
    assert "is sound" in verified.output
    assert SECRET not in verified.output
    assert run("export", url, tmp_path / "plain", "--to", "plain").exit_code == 0
    split = ("--train", tmp_path / "t", "--validation", tmp_path / "v", "--fraction", "0.5")
    assert run("split", url, *split).exit_code == 0
    refused = run("filter", store.root, "--trained-only", "--output", "hf://datasets/org/new")
    assert refused.exit_code == 1
    assert "expected a directory, or a URL of one of s3://" in refused.output


def test_stores_are_derived_from_remote_ones(store: Store, bucket: Bucket, tmp_path: Path) -> None:
    for path, name in ((store.root, "here"), (bucket.copy(store), "there")):
        output = tmp_path / name
        filter_store(path, output / "filter", trained_only=True)
        split_store(path, output / "train", output / "validation", fraction=0.5)
        merge_stores([path, store.root], output / "merge")
        export_plain(path, output / "export" / "shards")
    for name in ("filter", "train", "validation", "merge", "export"):
        assert shard_bytes(tmp_path / "here" / name) == shard_bytes(tmp_path / "there" / name) != {}


def test_building_to_a_url_is_refused(store: Store, tmp_path: Path) -> None:
    config = build_config(tmp_path, output=Path("s3://bucket/store"))
    with pytest.raises(InputError, match="expected a local directory to write to; found a URL"):
        build(config, FakeTeacher())
    with pytest.raises(InputError, match="expected a local directory to write to"):
        export_plain(store.root, "gs://bucket/plain")
    assert not Path("s3:").exists()


def test_the_output_head_is_read_from_afar(bucket: Bucket, tmp_path: Path) -> None:
    store = build_store(tmp_path, hidden_states=True)
    url = bucket.copy(store)
    bucket.proxy.inject(Fault(kind="flip", path="head.parquet", times=2))
    assert np.array_equal(Store.open(url).output_head().weight_VD, store.output_head().weight_VD)
    assert verify(url, fast=True).is_sound
    path = bucket.directory / "store" / "head.parquet"
    flip(path, 100)
    with pytest.raises(CorruptionError, match=r"head.parquet: expected .* bytes with SHA-256"):
        Store.open(url).output_head()
    path.unlink()
    with pytest.raises(CorruptionError, match=r"head.parquet: .* found no file"):
        Store.open(url).output_head()
    for fast in (False, True):
        [problem] = verify(url, fast=fast).problems
        assert problem.found == "no file"
