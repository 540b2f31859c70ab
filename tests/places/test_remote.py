from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import fs

from softtargets import Store, verify
from softtargets.capture import build
from softtargets.errors import (
    CorruptionError,
    InputError,
    SoftTargetsError,
    StoreError,
)
from softtargets.places import retries
from softtargets.store import (
    export_plain,
    filter_store,
    merge_stores,
    split_store,
)
from softtargets.window import Window
from tests.cli.test_commands import run
from tests.fakes import FakeTeacher, build_config, build_store, shard_bytes
from tests.hub import COMMIT, serve_dataset
from tests.object_store import KEY, SECRET, Bucket, Fault
from tests.processes import CONTEXT

pytestmark = pytest.mark.slow

SHARD = "shards/unit-000001.parquet"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait hardly at all before another attempt."""
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)


def content_of(windows: Any) -> list[tuple[Any, ...]]:
    return [
        (window.window_id, window.source, window.input_ids_L.tobytes(), window.mask_T.tobytes(),
         *(part.tobytes() for part in arrays_of(window)))
        for window in windows
    ]  # fmt: skip


def arrays_of(window: Window) -> list[np.ndarray[Any, Any]]:
    targets = window.targets
    assert targets.label_rank_T is not None
    return [targets.ids_TK, targets.logits_TK, targets.tail_mass_TG, targets.label_rank_T]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


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


def test_credentials_are_in_no_message(store: Store, bucket: Bucket, tmp_path: Path) -> None:
    there = Store.open(bucket.copy(store), cache_dir=tmp_path / "cache")
    (bucket.directory / "store" / SHARD).unlink()
    texts = [repr(there), str(there.location)]
    for fail in (
        lambda: list(there),
        lambda: Store.open(bucket.url("nothing")),
        lambda: Store.open(f"s4://{KEY}:{SECRET}@bucket/store?endpoint_override=a"),
        lambda: Store.open(f"s3://{KEY}:{SECRET}@bucket/store?endpoint_overide=a"),
    ):
        with pytest.raises(SoftTargetsError) as caught:
            fail()
        texts.append(str(caught.value))
    for text in texts:
        assert KEY not in text
        assert SECRET not in text


@pytest.mark.parametrize("kind", ["error", "cut", "flip"])
def test_what_is_wrong_for_a_moment_is_tried_again_and_counted(
    store: Store, bucket: Bucket, kind: Any
) -> None:
    there = Store.open(bucket.copy(store))
    bucket.proxy.inject(Fault(kind=kind, path="unit-000001", times=2))
    bucket.proxy.inject(Fault(kind=kind, path="unit-000002", first_byte=0, times=3))
    assert content_of(there) == content_of(store)
    assert there.reads.retries == 5
    assert [fault.num_done for fault in bucket.proxy.faults] == [2, 3]


@pytest.mark.parametrize("kind", ["error", "cut"])
def test_what_does_not_come_is_an_error_after_some_attempts(
    store: Store, bucket: Bucket, kind: Any
) -> None:
    there = Store.open(bucket.copy(store))
    fault = bucket.proxy.inject(Fault(kind=kind, path=SHARD, first_byte=0, times=10**6))
    with pytest.raises(StoreError, match=rf"s3://{bucket.name}/store/{SHARD}, row group 0: .*after "
                       rf"{retries.ATTEMPTS} attempts: AWS Error") as caught:  # fmt: skip
        list(there)
    assert type(caught.value) is StoreError
    assert fault.num_done == retries.ATTEMPTS
    assert there.reads.retries == retries.ATTEMPTS - 1


def test_no_attempt_begins_after_the_time_is_over(
    store: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Store.open(bucket.copy(store))
    monkeypatch.setattr(retries, "MOST_SECONDS", 0.0)
    fault = bucket.proxy.inject(Fault(kind="error", path=SHARD, times=10**6))
    with pytest.raises(StoreError, match="after 1 attempt:"):
        list(there)
    assert fault.num_done == 1


def test_damage_at_the_server_names_shard_and_row_group(store: Store, bucket: Bucket) -> None:
    there = Store.open(bucket.copy(store))
    entry = store.manifest.shards[1]
    flip(bucket.directory / "store" / SHARD, entry.row_groups[0].num_bytes // 2)
    with pytest.raises(CorruptionError, match=rf"{SHARD}, row group 0: expected .* bytes with"):
        list(there)
    flip(bucket.directory / "store" / SHARD, entry.num_bytes - entry.footer_bytes // 2)
    with pytest.raises(CorruptionError, match=rf"{SHARD}, footer: expected .* bytes with"):
        list(Store.open(bucket.url()))


@pytest.mark.parametrize("damage", ["missing", "short", "swapped"])
def test_another_file_is_an_error(store: Store, bucket: Bucket, damage: str) -> None:
    there = Store.open(bucket.copy(store))
    path = bucket.directory / "store" / SHARD
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        shutil.copy(bucket.directory / "store" / store.manifest.shards[2].path, path)
    with pytest.raises(CorruptionError, match=SHARD):
        list(there)
    shutil.copy(store.root / SHARD, path)
    before = there.reads
    assert content_of(there) == content_of(store)
    # The client remembers the size of what was there last, once.
    assert (there.reads - before).retries <= 1


def test_where_no_store_is(store: Store, bucket: Bucket) -> None:
    url = bucket.copy(store)
    with pytest.raises(StoreError, match=rf"s3://{bucket.name}/other: expected a store"):
        Store.open(bucket.url("other"))
    bucket.proxy.inject(Fault(kind="error", times=10**6))
    with pytest.raises(StoreError, match=r"manifest.json: expected to be read; found after"):
        Store.open(url)
    for wrong, message in (
        ("s4://bucket/store", "expected a URL that pyarrow.fs or fsspec opens"),
        ("s3://bucket/store?nothing=1", "expected a URL that pyarrow.fs or fsspec opens"),
    ):
        with pytest.raises(InputError, match=message):
            Store.open(wrong)
    with pytest.raises(InputError, match=r"expected a file system of pyarrow.fs or of fsspec"):
        Store.open("bucket/store", filesystem="s3")


def test_wrong_credentials_are_an_error(store: Store, bucket: Bucket) -> None:
    with pytest.raises(StoreError, match=r"expected to be read; found after .* ACCESS_DENIED"):
        Store.open(bucket.copy(store).replace(SECRET, "another"))


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


def test_verify_fetches_again_what_arrives_damaged(store: Store, bucket: Bucket) -> None:
    url = bucket.copy(store)
    there = Store.open(url)
    fault = bucket.proxy.inject(Fault(kind="flip", path=SHARD, times=2))
    assert verify(there).is_sound
    assert fault.num_done == 2
    flip(bucket.directory / "store" / SHARD, 100)
    problems = verify(there).problems
    assert [problem.where.removeprefix(f"{there.location}/") for problem in problems] == [
        f"{SHARD}, row group 0",
    ]


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


def test_a_file_system_may_be_given(store: Store, bucket: Bucket, tmp_path: Path) -> None:
    bucket.copy(store)
    s3 = fs.S3FileSystem(
        access_key=KEY, secret_key=SECRET, scheme="http", region="us-east-1",
        endpoint_override=f"127.0.0.1:{bucket.proxy.port}",
    )  # fmt: skip
    for path in (f"{bucket.name}/store", f"s3://{bucket.name}/store"):
        assert content_of(Store.open(path, filesystem=s3)) == content_of(store)
    shutil.copytree(store.root, tmp_path / "there")
    assert content_of(
        Store.open("there", filesystem=fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()))
    ) == content_of(store)


@pytest.fixture
def memory() -> Any:
    """fsspec's file system in memory, which all its users share; empty again afterwards."""
    memory = fsspec.filesystem("memory")
    yield memory
    memory.store.clear()


def test_fsspec_opens_the_rest(store: Store, memory: MemoryFileSystem, tmp_path: Path) -> None:
    memory.put(str(store.root), "/a/store", recursive=True)
    there = Store.open("memory://a/store", cache_dir=tmp_path / "cache")
    assert content_of(there) == content_of(store)
    assert content_of(Store.open("/a/store", filesystem=memory)) == content_of(store)
    assert verify(there).is_sound
    assert verify("memory://a/store", fast=True).is_sound
    memory.pipe(f"/a/store/{SHARD}", b"short")
    assert content_of(there) == content_of(store), "from the cache"
    found = [one.found for one in verify(there, fast=True).problems]
    assert found == ["5 bytes"]
    memory.rm(f"/a/store/{SHARD}")
    with pytest.raises(CorruptionError, match=r"unit-000001.parquet, footer: .* found no file"):
        list(Store.open("memory://a/store"))
    with pytest.raises(StoreError, match="memory://a/other: expected a store"):
        Store.open("memory://a/other")


class LocalAsync(AsyncFileSystem):  # type: ignore[misc]
    """Local files through an event loop, which is of no use in a process that was forked."""

    cachable = False

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        return Path(path).read_bytes()[start:end]

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": Path(path).stat().st_size}


@pytest.mark.parametrize(
    "context",
    [
        pytest.param(multiprocessing.get_context("fork"), id="forked"),
        pytest.param(CONTEXT, id="new", marks=pytest.mark.slow),
    ],
)
def test_another_process_connects_by_itself(store: Store, context: Any) -> None:
    there = Store.open(str(store.root), filesystem=LocalAsync())
    expected = content_of(there)
    ours, theirs = context.Pipe()
    process = context.Process(target=read_all, args=(there, theirs))
    process.start()
    assert ours.recv() == (expected, 0)
    process.join()


def read_all(store: Store, results: Connection) -> None:
    try:
        results.send((content_of(store), store.reads.retries))
    except SoftTargetsError as error:
        results.send(str(error))


def test_a_store_on_the_hub(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.hf_file_system import HfFileSystem, HfFileSystemFile

    fetch, fetched = HfFileSystemFile._fetch_range, []

    def count(file: HfFileSystemFile, start: int, end: int) -> bytes:
        fetched.append(end - start)
        return fetch(file, start, end)

    monkeypatch.setattr(HfFileSystemFile, "_fetch_range", count)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    files = {
        f"store/{path.relative_to(store.root)}": path.read_bytes()
        for path in store.root.rglob("*")
        if path.is_file()
    }
    with serve_dataset("someone/targets", files) as endpoint:
        hub = HfFileSystem(endpoint=endpoint, token=False, skip_instance_cache=True)
        url = f"hf://datasets/someone/targets@{COMMIT}/store"
        there = Store.open(url, filesystem=hub)
        assert str(there.location) == url
        assert content_of(there) == content_of(store)
        assert sum(fetched) == store.num_bytes, "no byte is read ahead"
        assert verify(there).is_sound
        # The client reads where the Hub is when it is imported.
        checked = subprocess.run(
            [sys.executable, "-m", "softtargets", "verify", url],
            env=os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"},
            capture_output=True,
            text=True,
        )
        assert checked.stdout.startswith(f"{url} is sound: "), checked.stderr


def test_local_paths_need_no_client(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a store behind a URL or a file system"):
        Store.open(store.root, cache_dir=tmp_path)
    with pytest.raises(InputError, match="expected cache_dir"):
        Store.open("s3://bucket/store", cache_bytes=10)
    with pytest.raises(InputError, match="expected a directory or a URL; found an empty text"):
        Store.open("")


def test_a_url_may_name_a_local_file(store: Store, tmp_path: Path) -> None:
    named = store.root.rename(tmp_path / "a?b#c\udcff")
    path = f"{tmp_path}/a%3Fb%23c%FF"
    for url in (f"file://{path}", f"file:{path}", f"FILE://localhost{path}"):
        assert Store.open(url).root == named
    for wrong in ("file://", "file://host/a", "file:///a?b", "file:///a#b", "file:////a"):
        with pytest.raises(InputError, match="expected file:///directory"):
            Store.open(wrong)
    with pytest.raises(StoreError, match=r"/a\\x00b/manifest.json: .* null byte"):
        Store.open("file:///a%00b")


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("http://[::1/a", StoreError, "Invalid IPv6 URL"),
        ("http://127.0.0.1:1/a", StoreError, "after 8 attempts: Cannot connect to host"),
        ("http://", InputError, "expected a URL that names a place"),
        ("ftp://", InputError, "expected a URL that names a place"),
        ("dir://a", InputError, "expected the URL of a place with files; found dir://"),
        ("dir::memory://a", InputError, "expected the URL of a place with files; found dir://"),
        ("reference://a", InputError, "expected the URL of a place with files; found reference://"),
        ("ftp://127.0.0.1:1/a", StoreError, "the place cannot be reached: "),
        ("hdfs://127.0.0.1:1/a", StoreError, "the place cannot be reached: "),
        ("github://a", InputError, "found TypeError: .* missing .* 'org' and 'repo'"),
        ("zip://a::/nothing.zip", StoreError, "cannot be reached: .Errno 2. No such file"),
        ("sftp://host/a", InputError, 'requires "paramiko" to be installed'),
        ("s4://bucket/a", InputError, "found Protocol not known: s4"),
    ],
)
def test_a_url_that_leads_nowhere_is_an_error(
    url: str, kind: type[SoftTargetsError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        Store.open(url)


class BrokenClient(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """Raises what it likes, and tells what it was made with."""

    cachable = False

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": 1000, "type": "file"}

    def cat_file(self, path: str, *_: Any, **__: Any) -> bytes:
        self.num_asked = getattr(self, "num_asked", 0) + 1
        raise self.storage_options["kind"](f"no {path} for {self.storage_options['api_key']}")


@pytest.mark.parametrize("kind", [TypeError, AttributeError, PermissionError, RuntimeError])
def test_a_broken_client_is_an_error(kind: type[Exception]) -> None:
    broken = BrokenClient(kind=kind, api_key="hunter22")
    with pytest.raises(StoreError, match=r"after .*no /a/manifest.json for \.\.\.") as caught:
        Store.open("/a", filesystem=broken)
    assert "hunter22" not in "".join(traceback.format_exception(caught.value))


def test_an_interruption_is_not_tried_again() -> None:
    broken = BrokenClient(kind=KeyboardInterrupt, api_key="")
    with pytest.raises(KeyboardInterrupt):
        Store.open("/a", filesystem=broken)
    assert broken.num_asked == 1


URLS = (
    "s3://AKIA:hunter22@bucket/a?scheme=http&endpoint_override=127.0.0.1:1",
    "s3://AKIA:hunt/er22@bucket/a",
    "s3://AKIA:hunt#er22@bucket/a",
    "s3://bucket/a?hunter22",
    "s3://bucket/a?secret_key=hunter22",
    "http://AKIA:hunter22@127.0.0.1:1/a",
    "http://AKIA:hunt/er22@127.0.0.1:1/a",
    "http://AKIA:hunt%2Fer22@127.0.0.1:1/a",
    "http://127.0.0.1:1/a?X-Amz-Signature=hunter22",
    "http://127.0.0.1:1/a#token=hunter22",
    "http://AKIA:hunter22@[::1/a",
    "ftp://AKIA:hunter22@127.0.0.1:1/a",
    "simplecache::http://AKIA:hunter22@127.0.0.1:1/a",
    "zip://a::http://AKIA:hunter22@127.0.0.1:1/a.zip?sig=hunter22",
    "zip://a::simplecache::https://127.0.0.1:1/a.zip?sv=1&sig=hunter22",
    "memory://AKIA:hunter22@a/b",
    "unknown://AKIA:hunter22@host/a",
    "sftp://AKIA:hunter22@host/a",
    "hf://AKIA:hunter22@datasets/a/b",
    "file://AKIA:hunter22@host/a",
    "dir://AKIA:hunter22@host/a",
)


@pytest.mark.parametrize("url", URLS)
def test_no_message_and_no_traceback_tells_a_secret(url: str, tmp_path: Path) -> None:
    for open_it in (Store.open, verify, lambda url: Store.open(url, cache_dir=tmp_path / "cache")):
        with pytest.raises(SoftTargetsError) as caught:
            open_it(url)
        error = caught.value
        told = "".join(traceback.format_exception(error)) + repr(error) + str(error)
        assert [one for one in ("hunter22", "hunt", "er22", "AKIA") if one in told] == []


def cached_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.range"))


def test_what_is_cached_is_not_asked_for_again(
    store: Store, bucket: Bucket, tmp_path: Path
) -> None:
    there = Store.open(bucket.copy(store), cache_dir=tmp_path / "cache")
    expected = content_of(store)
    assert content_of(there) == expected
    num_ranges = sum(1 + len(entry.row_groups) for entry in store.manifest.shards)
    assert there.reads.cache_misses == num_ranges == len(cached_files(tmp_path / "cache"))
    again = Store.open(bucket.url(), cache_dir=tmp_path / "cache")
    del bucket.proxy.requests[:]
    for one in (there, again):
        assert content_of(one) == expected
    assert bucket.num_requests() == 0
    assert again.reads.cache_hits == num_ranges
    assert again.reads.cache_misses == 0
    assert again.reads.fetched_bytes == (store.root / "manifest.json").stat().st_size


def test_a_store_that_moved_is_still_cached(store: Store, bucket: Bucket, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    list(Store.open(bucket.copy(store), cache_dir=cache))
    moved = Store.open(bucket.copy(store, "moved"), cache_dir=cache)
    del bucket.proxy.requests[:]
    assert content_of(moved) == content_of(store)
    assert bucket.num_requests() == 0


def test_two_stores_in_one_cache(store: Store, bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = build_store(tmp_path / "other", temperatures=(1.0,))
    stores = {"one": store, "two": other}
    for _ in range(2):
        for name, local in stores.items():
            if not (bucket.directory / name).exists():
                bucket.copy(local, name)
            there = Store.open(bucket.url(name), cache_dir=tmp_path / "cache")
            assert content_of(there) == content_of(local)
    assert there.reads.cache_misses == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "swap"])
def test_a_bad_cached_copy_is_fetched_again(
    store: Store, bucket: Bucket, tmp_path: Path, damage: str
) -> None:
    cache = tmp_path / "cache"
    list(Store.open(bucket.copy(store), cache_dir=cache))
    paths = cached_files(cache)
    content = paths[0].read_bytes()
    if damage == "flip":
        flip(paths[0], len(content) // 2)
    elif damage == "cut":
        paths[0].write_bytes(content[:-1])
    else:
        paths[0].write_bytes(paths[1].read_bytes())
    there = Store.open(bucket.url(), cache_dir=cache)
    del bucket.proxy.requests[:]
    assert content_of(there) == content_of(store)
    assert there.reads.cache_damaged == there.reads.cache_misses == 1
    assert [method for method, _, _ in bucket.proxy.requests] == ["HEAD", "GET"]
    assert paths[0].read_bytes() == content


def test_nothing_wrong_gets_into_the_cache(store: Store, bucket: Bucket, tmp_path: Path) -> None:
    there = Store.open(bucket.copy(store), cache_dir=tmp_path / "cache")
    flip(bucket.directory / "store" / SHARD, 100)
    with pytest.raises(CorruptionError):
        list(there)
    flip(bucket.directory / "store" / SHARD, 100)
    assert content_of(Store.open(bucket.url(), cache_dir=tmp_path / "cache")) == content_of(store)


def test_a_cache_that_cannot_hold_a_row_group_is_refused(
    store: Store, bucket: Bucket, tmp_path: Path
) -> None:
    shards = store.manifest.shards
    largest = max(group.num_bytes for entry in shards for group in entry.row_groups)
    largest += max(entry.footer_bytes for entry in shards)
    url = bucket.copy(store)
    with pytest.raises(InputError, match=f"expected {largest:,} or more, for the largest row gro"):
        Store.open(url, cache_dir=tmp_path / "cache", cache_bytes=largest - 1)
    there = Store.open(url, cache_dir=tmp_path / "cache", cache_bytes=largest)
    assert content_of(there) == content_of(store)


def test_threads_that_want_the_same_fetch_it_once(
    store: Store, bucket: Bucket, tmp_path: Path
) -> None:
    there = Store.open(bucket.copy(store), cache_dir=tmp_path / "cache")
    others = [Store.open(bucket.url(), cache_dir=tmp_path / "cache") for _ in range(3)]
    held = bucket.proxy.inject(Fault(kind="hold", path=SHARD, first_byte=0))
    ref = next(ref for ref in store.row_groups if ref.shard == 1)
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda one=one: found.append(content_of(one.read_row_group(ref))))
        for one in (there, *others)
    ]
    for thread in threads:
        thread.start()
    held.release.set()
    for thread in threads:
        thread.join()
    assert found == [found[0]] * 4
    first = [one for one in bucket.proxy.requests if one[1].endswith(SHARD) and one[2] == 0]
    assert len(first) == 1
    assert sum(one.reads.cache_hits for one in (there, *others)) == 6
