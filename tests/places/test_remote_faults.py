"""What a server does wrong: tried again if it may pass, and else an error that names the place."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from softtargets import Store, verify
from softtargets.errors import CorruptionError, StoreError
from softtargets.places import retries
from tests.object_store import SECRET, Bucket, Fault
from tests.places.store_contents import SHARD, content_of, flip

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_retries")]


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


def test_wrong_credentials_are_an_error(store: Store, bucket: Bucket) -> None:
    with pytest.raises(StoreError, match=r"expected to be read; found after .* ACCESS_DENIED"):
        Store.open(bucket.copy(store).replace(SECRET, "another"))


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
