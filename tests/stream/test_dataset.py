from __future__ import annotations

import re
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from softtargets import SoftTargetDataset, Store, collate
from softtargets.errors import CorruptionError, IdentityError, InputError
from tests.fakes import build_store


def ids(dataset: SoftTargetDataset) -> list[str]:
    return [window.window_id for window in dataset]


def loaded_ids(dataset: SoftTargetDataset, num_workers: int, batch_size: int = 3) -> list[str]:
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=collate)
    return [window_id for batch in loader for window_id in batch["window_id"]]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_window_exactly_once_over_ranks_and_workers(
    store: Store, shuffle: bool, world_size: int, num_workers: int
) -> None:
    expected = [window.window_id for window in store]
    found: list[str] = []
    for rank in range(world_size):
        dataset = SoftTargetDataset(store, shuffle=shuffle, rank=rank, world_size=world_size)
        mine = loaded_ids(dataset, num_workers)
        assert len(mine) == len(dataset)
        found += mine
    assert sorted(found) == sorted(expected)
    assert len(set(found)) == len(expected)


def test_ranks_take_turns_in_one_order(store: Store) -> None:
    whole = ids(SoftTargetDataset(store, shuffle=True, seed=5))
    for rank in range(3):
        part = ids(SoftTargetDataset(store, shuffle=True, seed=5, rank=rank, world_size=3))
        assert part == whole[rank::3]


def test_the_order_follows_seed_and_epoch(store: Store) -> None:
    dataset = SoftTargetDataset(store.root, shuffle=True, seed=1)
    first = ids(dataset)
    assert ids(dataset) == first
    dataset.set_epoch(1)
    assert ids(dataset) != first
    dataset.set_epoch(0)
    assert ids(dataset) == first
    assert ids(SoftTargetDataset(store, shuffle=True, seed=2)) != first
    assert ids(SoftTargetDataset(store)) == [window.window_id for window in store]


def test_persistent_workers_see_the_epoch(store: Store) -> None:
    dataset = SoftTargetDataset(store, shuffle=True)
    loader = DataLoader(
        dataset, batch_size=4, num_workers=1, persistent_workers=True, collate_fn=collate
    )

    def epoch_ids(epoch: int) -> list[str]:
        dataset.set_epoch(epoch)
        return [window_id for batch in loader for window_id in batch["window_id"]]

    orders = [epoch_ids(epoch) for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2)])
def test_resume_at_every_place_loses_and_doubles_nothing(
    store: Store, rank: int, world_size: int
) -> None:
    def fresh() -> SoftTargetDataset:
        return SoftTargetDataset(store, shuffle=True, seed=3, rank=rank, world_size=world_size)

    reference = fresh()
    reference.set_epoch(2)
    whole = ids(reference)
    for stop in range(len(whole) + 1):
        dataset = fresh()
        dataset.set_epoch(2)
        stream = iter(dataset)
        before = [next(stream).window_id for _ in range(stop)]
        state = dataset.state_dict()
        resumed = fresh()
        resumed.load_state_dict(state)
        # A state taken again before anything was delivered is the same state.
        again = fresh()
        again.load_state_dict(resumed.state_dict())
        assert before + ids(again) == whole, stop
        assert ids(again) == whole, "the epoch after starts from its beginning"


def test_a_state_of_another_order_is_refused(store: Store, tmp_path: Path) -> None:
    state = SoftTargetDataset(store, shuffle=True).state_dict()
    for other, field in (
        (SoftTargetDataset(store, shuffle=True, seed=1), "seed"),
        (SoftTargetDataset(store), "shuffle"),
        (SoftTargetDataset(store, shuffle=True, world_size=2), "world_size"),
    ):
        with pytest.raises(IdentityError, match=f"load_state_dict, {field}"):
            other.load_state_dict(state)
    (tmp_path / "other").mkdir()
    another = build_store(tmp_path / "other", temperatures=(3.0,))
    with pytest.raises(IdentityError, match="load_state_dict, fingerprint"):
        SoftTargetDataset(another, shuffle=True).load_state_dict(state)


def test_a_moved_store_is_the_same_store(store: Store, tmp_path: Path) -> None:
    state = SoftTargetDataset(store).state_dict()
    moved = store.root.rename(tmp_path / "moved")
    SoftTargetDataset(moved).load_state_dict(state)


@pytest.mark.slow
def test_workers_that_are_spawned_deliver_the_same(store: Store) -> None:
    dataset = SoftTargetDataset(store, shuffle=True)
    loader = DataLoader(
        dataset,
        batch_size=3,
        num_workers=1,
        collate_fn=collate,
        multiprocessing_context="spawn",
    )
    found = [window_id for batch in loader for window_id in batch["window_id"]]
    assert found == ids(dataset)


def test_the_state_of_windows_delivered_by_workers_is_refused(store: Store) -> None:
    dataset = SoftTargetDataset(store)
    next(iter(DataLoader(dataset, batch_size=2, num_workers=1, collate_fn=collate)))
    with pytest.raises(InputError, match="found one iterated in DataLoader workers"):
        dataset.state_dict()


@pytest.mark.parametrize(("rank", "world_size"), [(1, 1), (-1, 2), (0, 0)])
def test_a_rank_outside_the_world_is_refused(store: Store, rank: int, world_size: int) -> None:
    with pytest.raises(InputError, match="0 <= rank < world_size"):
        SoftTargetDataset(store, rank=rank, world_size=world_size)


def test_repr_and_fingerprint(store: Store) -> None:
    dataset = SoftTargetDataset(store, shuffle=True)
    assert re.search(r"Store\(.*shuffle=True, seed=0, rank=0, world_size=1", repr(dataset))
    assert dataset.fingerprint == store.fingerprint


@pytest.mark.parametrize("num_workers", [0, 2])
def test_damage_is_raised_and_never_skipped(store: Store, num_workers: int) -> None:
    path = store.root / store.manifest.shards[2].path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptionError, match=path.name):
        loaded_ids(SoftTargetDataset(store), num_workers)
