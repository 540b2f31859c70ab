"""File systems of other libraries, and clients that are given: stores are read through each."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import fs

from softtargets import Store, verify
from softtargets.errors import CorruptionError, SoftTargetsError, StoreError
from tests.hub import COMMIT, serve_dataset
from tests.object_store import KEY, SECRET, Bucket
from tests.places.store_contents import SHARD, content_of
from tests.processes import CONTEXT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_retries")]


@pytest.fixture
def memory() -> Any:
    """fsspec's file system in memory, which all its users share; empty again afterwards."""
    memory = fsspec.filesystem("memory")
    yield memory
    memory.store.clear()


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
