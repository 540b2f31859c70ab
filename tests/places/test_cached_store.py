"""A remote store with a cache: what is there is not asked for again, and nothing wrong is."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from softtargets import Store
from softtargets.errors import CorruptionError, InputError
from tests.fakes import build_store
from tests.object_store import Bucket, Fault
from tests.places.store_contents import SHARD, content_of, flip

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_retries")]


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
