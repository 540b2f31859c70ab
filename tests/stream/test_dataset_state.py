"""The state of a dataset: with it a stopped epoch goes on, and nothing is lost or doubled."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from softtargets import SoftTargetDataset, Store, collate
from softtargets.errors import IdentityError, InputError
from tests.fakes import build_store
from tests.stream.resume import WRONG, fuzz_resume


@pytest.mark.parametrize(
    ("num_cases", "seed"), [(10, 0), pytest.param(220, 2, marks=pytest.mark.slow)]
)
def test_resuming_loses_and_doubles_nothing_and_keeps_the_order(
    store: Store, num_cases: int, seed: int
) -> None:
    counts = fuzz_resume(store, num_cases=num_cases, max_workers=0, seed=seed)
    assert counts["cases"] == num_cases
    assert counts["stops"] > 1.6 * num_cases
    assert {name: counts[name] for name in WRONG} == dict.fromkeys(WRONG, 0)


@pytest.mark.slow
def test_resuming_with_workers_does_so_too(store: Store) -> None:
    counts = fuzz_resume(store, num_cases=12, max_workers=2, seed=1)
    assert counts["with workers"] > 10
    assert {name: counts[name] for name in WRONG} == dict.fromkeys(WRONG, 0)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_epoch_after_a_resumed_one_is_whole(store: Store, num_workers: int) -> None:
    dataset = SoftTargetDataset(store, shuffle=True, batch_size=3)
    whole = [batch["window_id"] for batch in dataset]
    batches = iter(dataset)
    next(batches)
    state = dataset.state_dict(next(batches))
    resumed = SoftTargetDataset(store, shuffle=True, batch_size=3)
    resumed.load_state_dict(state)
    loader = DataLoader(resumed, batch_size=None, num_workers=num_workers)
    for expected in (whole[2:], whole, whole):
        assert [batch["window_id"] for batch in loader] == expected
    # What was resumed here is not resumed again in workers, nor in part of them.
    resumed.load_state_dict(state)
    assert [batch["window_id"] for batch in resumed] == whole[2:]
    two = DataLoader(resumed, batch_size=None, num_workers=2)
    assert [batch["window_id"] for batch in two] == whole
    # A state of one epoch says nothing about another.
    resumed.load_state_dict(state)
    resumed.set_epoch(1)
    assert len(list(loader)) == len(whole)


@pytest.mark.slow
def test_no_epoch_before_a_resumed_one_is_begun(store: Store) -> None:
    dataset = SoftTargetDataset(store, shuffle=True, batch_size=3)
    dataset.set_epoch(2)
    batches = iter(dataset)
    state = dataset.state_dict(next(batches))
    resumed = SoftTargetDataset(store, shuffle=True, batch_size=3)
    resumed.load_state_dict(state)
    with pytest.raises(InputError, match=r"an epoch from 2 on, of which place 3 .* found 0"):
        resumed.set_epoch(0)
    assert resumed.epoch == 2
    assert len(list(resumed)) == len(resumed) - 1
    resumed.set_epoch(0)
    # The same where workers have resumed it.
    resumed.load_state_dict(state)
    loader = DataLoader(resumed, batch_size=None, num_workers=2)
    assert len(list(loader)) == len(resumed) - 1
    resumed.set_epoch(0)


def test_the_state_is_taken_after_the_batch_that_was_trained_on(store: Store) -> None:
    dataset = SoftTargetDataset(store, shuffle=True, batch_size=2)
    whole = [batch["window_id"] for batch in dataset]
    batches = list(zip(range(5), iter(dataset), strict=False))
    state = dataset.state_dict(after=batches[1][1])
    resumed = SoftTargetDataset(store, shuffle=True, batch_size=2)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert [batch["window_id"] for batch in resumed] == whole[2:]
    with pytest.raises(InputError, match="one that was made of windows"):
        dataset.state_dict(after=collate(list(store)[:2]))


def test_a_state_of_another_order_is_refused(store: Store, tmp_path: Path) -> None:
    state = SoftTargetDataset(store, shuffle=True).state_dict()
    for other, field in (
        (SoftTargetDataset(store, shuffle=True, seed=1), "seed"),
        (SoftTargetDataset(store), "shuffle"),
        (SoftTargetDataset(store, shuffle=True, shuffle_groups=3), "shuffle_groups"),
    ):
        with pytest.raises(IdentityError, match=f"load_state_dict, {field}"):
            other.load_state_dict(state)
    (tmp_path / "other").mkdir()
    another = build_store(tmp_path / "other", temperatures=(3.0,))
    with pytest.raises(IdentityError, match="load_state_dict, fingerprint"):
        SoftTargetDataset(another, shuffle=True).load_state_dict(state)

    with pytest.raises(InputError, match="found nothing"):
        SoftTargetDataset(store).load_state_dict({})
    state["place"] = -1
    with pytest.raises(InputError, match="found epoch 0, place -1"):
        SoftTargetDataset(store, shuffle=True).load_state_dict(state)


def test_a_moved_store_is_the_same_store(store: Store, tmp_path: Path) -> None:
    state = SoftTargetDataset(store).state_dict()
    moved = store.root.rename(tmp_path / "moved")
    SoftTargetDataset(moved).load_state_dict(state)


@pytest.mark.slow
def test_the_state_of_windows_delivered_by_workers_is_refused(store: Store) -> None:
    dataset = SoftTargetDataset(store)
    next(iter(DataLoader(dataset, batch_size=2, num_workers=1, collate_fn=collate)))
    with pytest.raises(InputError, match="found one iterated in DataLoader workers"):
        dataset.state_dict()
