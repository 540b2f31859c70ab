"""What cannot be read is an error, or is skipped, counted and reported if asked."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from softtargets import SoftTargetDataset, Store
from softtargets.errors import CorruptionError, StoreError
from tests.corruptions import Change, drop, forge_column, put
from tests.fakes import build_store
from tests.stream.window_ids import ids, loaded_ids


def flip_a_bit(store: Store, other: Store) -> None:
    entry = store.manifest.shards[1]
    path = store.root / entry.path
    content = bytearray(path.read_bytes())
    content[entry.row_groups[0].offset + 40] ^= 1
    path.write_bytes(content)


def truncate(store: Store, other: Store) -> None:
    path = store.root / store.manifest.shards[1].path
    path.write_bytes(path.read_bytes()[:-1])


def remove(store: Store, other: Store) -> None:
    (store.root / store.manifest.shards[1].path).unlink()


def swap(store: Store, other: Store) -> None:
    one, two = (store.root / store.manifest.shards[unit].path for unit in (1, 2))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def leave_a_stale_one(store: Store, other: Store) -> None:
    path = store.root / store.manifest.shards[1].path
    path.write_bytes((other.root / other.manifest.shards[1].path).read_bytes())


FAULTS = (flip_a_bit, truncate, remove, swap, leave_a_stale_one)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of other temperatures, which is only read."""
    return build_store(tmp_path_factory.mktemp("other"), temperatures=(2.0, 3.0))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_damage_is_raised_and_never_skipped(
    store: Store, other: Store, fault: Callable[..., None], num_workers: int, shuffle: bool
) -> None:
    fault(store, other)
    with pytest.raises(CorruptionError, match=r"unit-00000[12]\.parquet"):
        loaded_ids(SoftTargetDataset(store, shuffle=shuffle), num_workers)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_only_what_is_damaged_is_skipped_if_asked(
    store: Store, other: Store, fault: Callable[..., None]
) -> None:
    sound = ids(SoftTargetDataset(store, shuffle=True))
    fault(store, other)
    dataset = SoftTargetDataset(store, shuffle=True, on_error="skip")
    with pytest.warns(RuntimeWarning, match="Windows are skipped"):
        found = ids(dataset)
    # What is sound keeps its place.
    assert len(found) == len(sound)
    assert all(one in ("", expected) for one, expected in zip(found, sound, strict=True))
    stats = dataset.stats()
    assert found.count("") == stats.skipped_windows == len(store) - stats.windows
    damaged = {1, 2} if fault is swap else {1}
    most = sum(store.manifest.shards[unit].num_windows for unit in damaged)
    assert 0 < stats.skipped_windows <= most


def test_damaged_row_groups_are_skipped_counted_and_reported_if_asked(store: Store) -> None:
    flip_a_bit(store, store)
    entry = store.manifest.shards[1]
    missing = {
        window.window_id
        for ref in store.row_groups
        if (ref.shard, ref.group) != (1, 0)
        for window in store.read_row_group(ref)
    }
    counts = []
    for rank in range(2):
        dataset = SoftTargetDataset(
            store, shuffle=True, rank=rank, world_size=2, batch_size=3, on_error="skip"
        )
        with pytest.warns(
            RuntimeWarning, match=f"Windows are skipped. .*{entry.path}, row group 0"
        ):
            found = [one for batch in dataset for one in batch["window_id"] if one]
        missing -= set(found)
        stats = dataset.stats()
        assert stats.windows == len(found)
        assert len(stats.errors) == 1
        counts.append((len(list(found)), stats.skipped_windows))
    assert not missing
    assert sum(skipped for _, skipped in counts) == entry.row_groups[0].num_windows
    assert sum(sum(one) for one in counts) == len(store)


@pytest.mark.slow
def test_a_row_group_that_does_not_come_is_an_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, comes, came = Store.read_row_group, threading.Event(), list[bool]()

    def slowly(self: Store, ref: Any) -> Any:
        if ref.shard == 0:
            came.append(comes.wait())
        return read(self, ref)

    monkeypatch.setattr(Store, "read_row_group", slowly)
    dataset = SoftTargetDataset(store, stall_timeout=0.2, shuffle_groups=1)
    # The first of all, so that none is waited for that only takes its time.
    with pytest.raises(StoreError, match=r"shard 0, row group 0: expected to be read"):
        list(dataset)
    assert dataset.stats().stall_seconds >= 0.2
    # Whoever catches it need not wait for what does not come.
    assert not came
    comes.set()
    for thread in threading.enumerate():
        if thread.name.startswith("softtargets-"):
            thread.join()
    assert came == [True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("id_plane_1", put(255), "column id_plane_1: expected ids below 300"),
        ("tail_mass_t1", put(7.0), "column tail_mass_t1: expected a mass from 0 to below 1; found"),
        ("tail_mass_t2", put(np.nan), "column tail_mass_t2: expected a mass from 0 to below 1"),
        ("input_ids", put(-1), "column input_ids: expected ids from 0 to 299; found -1"),
        ("escapes", drop(), "column escapes: expected a difference for each of"),
        ("segment_lengths", put(2**31 - 1), "column segment_lengths: expected lengths that sum"),
    ],
)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_values_that_are_none_reach_no_student(
    store: Store, column: str, change: Change, message: str, batch_size: int | None
) -> None:
    forge_column(store.root, column, change)
    where = "unit-000000.parquet, row group 0, row 0, "
    with pytest.raises(CorruptionError, match=re.escape(where + message)):
        list(SoftTargetDataset(store.root, batch_size=batch_size))
    dataset = SoftTargetDataset(store.root, batch_size=batch_size, on_error="skip")
    with pytest.warns(RuntimeWarning, match=column):
        assert len(list(dataset)) == len(dataset)
    assert 0 < dataset.stats().skipped_windows < len(store)
