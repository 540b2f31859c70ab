from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from softtargets import SoftTargetDataset, Store
from softtargets.errors import CorruptionError, InputError, StoreError
from softtargets.places import retries
from softtargets.places.cache import RangeCache
from tests.object_store import Bucket, Fault
from tests.places.store_contents import flip
from tests.places.test_cache import held_bytes
from tests.processes import CONTEXT, none_left
from tests.test_documents import code_blocks

SHARD = "shards/unit-000002.parquet"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait hardly at all before another attempt."""
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)


def check_same(found: Any, expected: Any) -> None:
    """Check that two streams give the same batches, bit for bit."""
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, other[name]), name
            elif name == "temperatures":
                assert tuple(value) == tuple(other[name]), "a DataLoader makes a list of it"
            else:
                assert value == other[name]


@pytest.mark.slow
@pytest.mark.parametrize("num_threads", [0, 1, 4])
def test_a_remote_stream_is_the_local_one(store: Store, bucket: Bucket, num_threads: int) -> None:
    options: dict[str, Any] = {"shuffle": True, "seed": 3, "batch_size": 4, "shuffle_groups": 2}
    here = SoftTargetDataset(store, **options)
    there = SoftTargetDataset(bucket.copy(store), num_threads=num_threads, **options)
    for epoch in (0, 1):
        for dataset in (here, there):
            dataset.set_epoch(epoch)
        check_same(there, here)
    assert there.plan(1) == here.plan(1)
    reads = there.stats().reads
    assert 0 < reads.fetched_bytes < store.num_bytes
    assert reads.cache_hits == reads.cache_misses == reads.retries == 0
    assert here.stats().reads.fetched_bytes == 0


@pytest.mark.slow
def test_a_stream_goes_on_where_the_store_was_moved_to(
    store: Store, bucket: Bucket, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"shuffle": True, "batch_size": 3}
    whole = list(SoftTargetDataset(store, **options))
    cached = Store.open(bucket.copy(store), cache_dir=tmp_path / "cache")
    dataset = SoftTargetDataset(cached, **options)
    first = [batch for _, batch in zip(range(4), dataset, strict=False)]
    state = json.loads(json.dumps(dataset.state_dict(after=first[-1])))
    moved = Store.open(bucket.copy(store, "moved"), cache_dir=tmp_path / "cache")
    for place in (moved, bucket.url("moved"), store.root):
        resumed = SoftTargetDataset(place, **options)
        resumed.load_state_dict(state)
        check_same([*first, *resumed], whole)


@pytest.mark.slow
def test_stats_tell_of_cache_and_network(store: Store, bucket: Bucket, tmp_path: Path) -> None:
    there = Store.open(bucket.copy(store), cache_dir=tmp_path / "cache")
    dataset = SoftTargetDataset(there, shuffle=True, num_threads=3)
    bucket.proxy.inject(Fault(kind="error", path=SHARD, times=2))
    list(dataset)
    first = dataset.stats().reads
    num_ranges = sum(1 + len(entry.row_groups) for entry in store.manifest.shards)
    assert first.cache_misses == num_ranges
    assert first.retries == 2
    assert first.fetched_bytes == store.num_bytes
    del bucket.proxy.requests[:]
    dataset.set_epoch(1)
    list(dataset)
    second = dataset.stats().reads
    assert bucket.num_requests() == 0
    # Footers are in memory by now.
    assert second.cache_hits == len(store.row_groups)
    assert second.cache_misses == second.fetched_bytes == second.retries == 0


@pytest.mark.slow
def test_damage_afar_is_raised_or_skipped(store: Store, bucket: Bucket) -> None:
    url = bucket.copy(store)
    flip(bucket.directory / "store" / SHARD, 100)
    with pytest.raises(CorruptionError, match=rf"{SHARD}, row group 0"):
        list(SoftTargetDataset(url))
    dataset = SoftTargetDataset(url, on_error="skip")
    with pytest.warns(RuntimeWarning, match=rf"{SHARD}, row group 0"):
        list(dataset)
    skipped = store.manifest.shards[2].num_windows
    assert dataset.stats().skipped_windows == skipped
    assert dataset.stats().windows == len(store) - skipped


@pytest.mark.slow
def test_a_server_that_is_gone_is_never_skipped(store: Store, bucket: Bucket) -> None:
    dataset = SoftTargetDataset(bucket.copy(store), on_error="skip")
    bucket.proxy.inject(Fault(kind="error", path=SHARD, times=10**6))
    with pytest.raises(StoreError, match=f"after {retries.ATTEMPTS} attempts") as caught:
        list(dataset)
    assert not isinstance(caught.value, CorruptionError)


@pytest.mark.slow
def test_a_row_group_that_does_not_come_stalls_with_an_error(
    store: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "MOST_SECONDS", 0.0)
    monkeypatch.setattr("softtargets.places.filesystems.TIMEOUT", 3.0)
    dataset = SoftTargetDataset(bucket.copy(store), stall_timeout=0.5, num_threads=2)
    # The first of all, so that none is waited for that only takes its time.
    first = store.manifest.shards[0].path
    bucket.proxy.inject(Fault(kind="hold", path=first, first_byte=0, times=10**6))
    with pytest.raises(StoreError, match=r"shard 0, row group 0: expected to be read within 0.5 s"):
        list(dataset)
    # A read that hangs is left, and ends by itself when the client gives up.
    for thread in threading.enumerate():
        if thread.name.startswith("softtargets"):
            thread.join()


@pytest.mark.slow
def test_a_cache_that_cannot_hold_two_blocks_is_refused(
    store: Store, bucket: Bucket, tmp_path: Path
) -> None:
    shards = store.manifest.shards
    largest = max(group.num_bytes for entry in shards for group in entry.row_groups)
    largest += max(entry.footer_bytes for entry in shards)

    def open_with(limit: int) -> Store:
        return Store.open(bucket.url(), cache_dir=tmp_path / "cache", cache_bytes=limit)

    bucket.copy(store)
    with pytest.raises(InputError, match=rf"expected {2 * largest:,} or more, for 2 row groups"):
        SoftTargetDataset(open_with(2 * largest - 1), shuffle_groups=1)
    expected = [window.window_id for window in SoftTargetDataset(store, shuffle_groups=1)]
    for _ in range(2):
        found = SoftTargetDataset(open_with(2 * largest), shuffle_groups=1)
        assert [window.window_id for window in found] == expected
    # All that a store has is enough for any number of blocks.
    SoftTargetDataset(open_with(store.num_bytes), shuffle_groups=None)
    with pytest.raises(InputError, match=f"expected {store.num_bytes:,} or more"):
        SoftTargetDataset(open_with(store.num_bytes - 1), shuffle_groups=None)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", CONTEXT], ids=["forked", "new"])
@pytest.mark.parametrize("with_cache", [False, True])
def test_worker_processes_read_it_too(
    store: Store, bucket: Bucket, tmp_path: Path, method: Any, with_cache: bool
) -> None:
    cache: dict[str, Any] = {"cache_dir": tmp_path / "cache"} if with_cache else {}
    there = Store.open(bucket.copy(store), **cache)
    # What the parent has read, and its connections, are there when it forks.
    next(iter(there))
    dataset = SoftTargetDataset(there, shuffle=True, batch_size=4)
    whole = list(SoftTargetDataset(store, shuffle=True, batch_size=4))
    with none_left():
        for num_workers in (1, 2):
            loader = DataLoader(
                dataset, batch_size=None, num_workers=num_workers, multiprocessing_context=method
            )
            check_same(loader, whole)
    assert there.reads.retries == 0
    if with_cache:
        gets = [one for one in bucket.proxy.requests if one[0] == "GET"]
        assert sorted(set(gets)) == sorted(gets), "every range was fetched once"


def read_epochs(url: str, cache: Path, limit: int, seed: int) -> list[int]:
    """Return how many windows each of some epochs has."""
    store = Store.open(url, cache_dir=cache, cache_bytes=limit)
    dataset = SoftTargetDataset(store, shuffle=True, seed=seed, shuffle_groups=1)
    counts = []
    for epoch in range(8):
        dataset.set_epoch(epoch)
        counts.append(len({window.window_id for window in dataset}))
    return counts


@pytest.mark.slow
def test_three_processes_share_a_small_cache(store: Store, bucket: Bucket, tmp_path: Path) -> None:
    limit = store.num_bytes * 6 // 10
    url, cache = bucket.copy(store), tmp_path / "cache"
    probe = RangeCache(cache, limit)
    largest = 0
    with ProcessPoolExecutor(3, CONTEXT) as pool:
        readers = [pool.submit(read_epochs, url, cache, limit, seed) for seed in range(3)]
        while wait(readers, timeout=0.001).not_done:
            largest = max(largest, held_bytes(probe))
    largest = max(largest, held_bytes(probe))
    assert [one.result() for one in readers] == [[len(store)] * 8] * 3
    assert limit / 2 < largest <= limit


@pytest.mark.slow
def test_a_process_ends_cleanly_in_the_middle_of_a_stream(store: Store, bucket: Bucket) -> None:
    script = (
        "import sys, threading\n"
        "from softtargets import SoftTargetDataset\n"
        "stream = iter(SoftTargetDataset(sys.argv[1], num_threads=4, shuffle_groups=1))\n"
        "next(stream)\n"
        "assert threading.active_count() > 1\n"
        "stream.close()\n"
        "assert threading.active_count() == 1\n"
        "print('read')\n"
    )
    command = [sys.executable, "-W", "error", "-c", script, bucket.copy(store)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("read\n", "", 0)


def test_the_code_of_the_page_on_loading_runs(store: Store, bucket: Bucket, tmp_path: Path) -> None:
    [code] = code_blocks("docs/loading.md", "py")
    assert "s3://bucket/my-store" in code
    code = code.replace("s3://bucket/my-store", bucket.copy(store))
    exec(code.replace("/local/cache", str(tmp_path / "cache")), {})
