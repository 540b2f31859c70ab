"""An epoch has every window once in one order, whatever ranks, workers and threads share it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from softtargets import SoftTargetDataset, Store, collate, distillation_loss
from softtargets.errors import InputError
from tests.processes import CONTEXT
from tests.stream.window_ids import ids, loaded_ids


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    ("world_size", "num_workers"),
    [
        *((world_size, 0) for world_size in (1, 2, 3, 5)),
        (2, 2),
        *(pytest.param(world_size, 2, marks=pytest.mark.slow) for world_size in (1, 3, 5)),
    ],
)
def test_every_window_exactly_once_over_ranks_and_workers(
    store: Store, shuffle: bool, world_size: int, num_workers: int
) -> None:
    expected = [window.window_id for window in store]
    found: list[str] = []
    for rank in range(world_size):
        dataset = SoftTargetDataset(store, shuffle=shuffle, rank=rank, world_size=world_size)
        mine = loaded_ids(dataset, num_workers)
        assert len(mine) == len(dataset) == -(-len(store) // world_size)
        found += mine
    padding = -len(store) % world_size
    assert sorted(found) == [""] * padding + sorted(expected)


def test_ranks_take_turns_in_one_order(store: Store) -> None:
    whole = ids(SoftTargetDataset(store, shuffle=True, seed=5))
    for rank in range(3):
        part = ids(SoftTargetDataset(store, shuffle=True, seed=5, rank=rank, world_size=3))
        assert [one for one in part if one] == whole[rank::3]


def global_steps(store: Store, world_size: int, global_batch_size: int, **options: Any) -> Any:
    """Return the ids of every step over all ranks."""
    ranks = [
        [
            batch["window_id"]
            for batch in SoftTargetDataset(
                store, rank=rank, world_size=world_size, global_batch_size=global_batch_size,
                shuffle=True, seed=4, **options,
            )
        ]
        for rank in range(world_size)
    ]  # fmt: skip
    assert len({len(steps) for steps in ranks}) == 1
    return [
        [one for together in zip(*step, strict=True) for one in together]
        for step in zip(*ranks, strict=True)
    ]


@pytest.mark.slow
def test_any_number_of_ranks_gives_the_same_global_batches(store: Store) -> None:
    assert len(store) % 24 != 0
    one = global_steps(store, 1, 24)
    assert [row for step in one for row in step if row] == ids(
        SoftTargetDataset(store, shuffle=True, seed=4)
    )
    for world_size in (2, 3, 4, 8):
        assert global_steps(store, world_size, 24) == one
    with pytest.raises(InputError, match="24 is divided by world sizes 1, 2, 3, 4, 6, 8, 12, 24"):
        SoftTargetDataset(store, rank=0, world_size=5, global_batch_size=24)


def test_the_tail_is_padded_or_dropped_or_an_error(store: Store) -> None:
    size = 4
    while len(store) % size == 0:
        size += 1
    padded = list(SoftTargetDataset(store, batch_size=size))
    assert len(padded) == -(-len(store) // size)
    last = padded[-1]
    rows = len(store) % size
    assert last["window_id"][rows:] == [""] * (size - rows)
    assert all(last["window_id"][:rows])
    assert not last["target_mask"][rows:].any()
    assert (last["labels"][rows:] == -100).all()
    # They change no loss, and no gradient can come from them.
    logits = torch.randn((*last["input_ids"].shape, last["vocab_size"]), requires_grad=True)
    distillation_loss(logits, last, ce_weight=0.5).backward()
    assert logits.grad is not None
    assert not logits.grad[rows:].any()
    dropped = SoftTargetDataset(store, batch_size=size, tail="drop")
    found = [row for batch in dropped for row in batch["window_id"]]
    assert len(dropped) == len(store) // size
    assert found == [window.window_id for window in store][: len(dropped) * size]
    with pytest.raises(InputError, match="Sizes near it that do"):
        len(SoftTargetDataset(store, batch_size=size, tail="error"))
    with pytest.raises(InputError, match=f"divides the {len(store)} windows; found {size}"):
        iter(SoftTargetDataset(store, batch_size=size, tail="error"))
    assert len(list(SoftTargetDataset(store, batch_size=1, tail="error"))) == len(store)


@pytest.mark.slow
def test_more_ranks_than_windows_take_the_same_steps(store: Store) -> None:
    world_size = len(store) + 3
    steps = global_steps(store, world_size, 2 * world_size)
    assert len(steps) == 1
    assert sorted(filter(None, steps[0])) == sorted(window.window_id for window in store)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_come_in_the_same_order_from_workers(store: Store, num_workers: int) -> None:
    dataset = SoftTargetDataset(store, shuffle=True, batch_size=4)
    whole = [batch["window_id"] for batch in dataset]
    loader = DataLoader(dataset, batch_size=None, num_workers=num_workers)
    assert [batch["window_id"] for batch in loader] == whole


@pytest.mark.slow
@pytest.mark.parametrize("num_threads", [0, 1, 3])
@pytest.mark.parametrize("shuffle_groups", [1, 2, None])
def test_threads_change_nothing(store: Store, num_threads: int, shuffle_groups: int | None) -> None:
    options: dict[str, Any] = {"shuffle": True, "shuffle_groups": shuffle_groups}
    one, other = (
        SoftTargetDataset(store, num_threads=threads, **options) for threads in (0, num_threads)
    )
    for expected, found in zip(one, other, strict=True):
        assert found.window_id == expected.window_id
        assert np.array_equal(found.targets.ids_TK, expected.targets.ids_TK)


def test_the_plan_tells_the_windows_of_any_step(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = global_steps(store, 3, 12)
    dataset = SoftTargetDataset(
        store, shuffle=True, seed=4, rank=1, world_size=3, global_batch_size=12
    )
    first = dataset.plan(0)
    monkeypatch.setattr(Store, "open_shard", None)  # Nothing is read any more.
    assert [first, *(dataset.plan(step) for step in range(1, len(dataset)))] == [
        [one for one in step if one] for step in steps
    ]
    with pytest.raises(InputError, match=f"a step from 0 to {len(dataset) - 1}"):
        dataset.plan(len(dataset))


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_workers_that_inherit_nothing_deliver_the_same(store: Store) -> None:
    dataset = SoftTargetDataset(store, shuffle=True)
    loader = DataLoader(
        dataset,
        batch_size=3,
        num_workers=1,
        collate_fn=collate,
        multiprocessing_context=CONTEXT,
    )
    found = [window_id for batch in loader for window_id in batch["window_id"]]
    assert found == ids(dataset)


def test_an_iteration_keeps_the_epoch_it_began_with(store: Store) -> None:
    dataset = SoftTargetDataset(store, shuffle=True, batch_size=4)
    whole = [batch["window_id"] for batch in dataset]
    batches = iter(dataset)
    dataset.set_epoch(1)
    assert [batch["window_id"] for batch in batches] == whole
