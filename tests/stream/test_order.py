from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softtargets.stream.order import EpochOrder, Places, Share, permutation, shuffle_quality


def order_of(
    sizes: list[int], *, shuffle: bool, seed: int, epoch: int, groups: int | None
) -> EpochOrder:
    return EpochOrder(np.array(sizes), shuffle=shuffle, seed=seed, epoch=epoch, block_groups=groups)


def places_of(order: EpochOrder, sizes: list[int], start: int = 0) -> list[int]:
    """Return the places in the order of the corpus."""
    groups, rows = windows_of(order, start)
    return [int(place) for place in (np.cumsum(sizes) - sizes)[groups] + rows]


def windows_of(order: EpochOrder, start: int = 0) -> tuple[Places, Places]:
    """Return row group and row at all places from `start`."""
    groups, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for block in order.blocks(start):
        first = max(0, start - block.first)
        groups.append(block.row_groups[block.members[first:]])
        rows.append(block.rows[first:])
    return np.concatenate(groups), np.concatenate(rows)


@pytest.mark.slow
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=20),
    st.booleans(),
    st.integers(0, 2**40),
    st.integers(0, 5),
    st.one_of(st.none(), st.integers(1, 8)),
    st.data(),
)
def test_every_window_once_and_from_any_place(
    sizes: list[int], shuffle: bool, seed: int, epoch: int, groups: int | None, data: st.DataObject
) -> None:
    order = order_of(sizes, shuffle=shuffle, seed=seed, epoch=epoch, groups=groups)
    assert len(order) == sum(sizes)
    places = places_of(order, sizes)
    assert sorted(places) == list(range(sum(sizes)))
    if not shuffle:
        assert places == list(range(sum(sizes)))
    start = data.draw(st.integers(0, len(order)))
    assert places_of(order, sizes, start) == places[start:]
    # No row group is in two blocks, and a block's windows are those of its row groups.
    blocks = list(order.blocks())
    members = [group for block in blocks for group in block.row_groups.tolist()]
    assert sorted(members) == list(range(len(sizes)))
    assert all(len(block) == sum(sizes[one] for one in block.row_groups) for block in blocks)


@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(0, 9), st.integers(0, 40)
)
def test_shares_take_every_place_once(
    world_size: int, num_workers: int, size: int, start: int, num_places: int
) -> None:
    stop = start + num_places
    taken: list[int] = []
    for rank in range(world_size):
        for worker in range(num_workers):
            share = Share(
                rank=rank,
                world_size=world_size,
                worker=worker,
                num_workers=num_workers,
                size=size,
            )
            own = [place for places in share.steps(start, stop) for place in places.tolist()]
            taken += own
            every = np.arange(stop + 5)
            assert share.own(every, start, stop).tolist() == [one for one in own if one < stop]
    # Whole steps, the last of which may lie above.
    assert sorted(taken) == list(range(start, start + len(taken)))
    assert 0 <= len(taken) - num_places < world_size * size


@pytest.mark.slow
def test_a_larger_window_shuffles_better_up_to_a_uniform_permutation() -> None:
    sizes = [16] * 64
    rates = []
    for groups in (1, 4, 16, None):
        orders = [
            order_of(sizes, shuffle=True, seed=seed, epoch=0, groups=groups) for seed in range(50)
        ]
        found = [shuffle_quality(*windows_of(order), np.array(sizes)) for order in orders]
        rates.append(np.mean([one.same_row_group for one in found]))
        displacement = np.mean([one.mean_displacement for one in found])
        assert displacement == pytest.approx(1 / 3, rel=0.05)
        assert found[0].ideal_same_row_group == pytest.approx(15 / 1023)
    assert rates == pytest.approx([960 / 1023, 15 / 63, 15 / 255, 15 / 1023], rel=0.1)
    corpus = order_of(sizes, shuffle=False, seed=0, epoch=0, groups=4)
    assert shuffle_quality(*windows_of(corpus), np.array(sizes)).same_row_group == pytest.approx(
        960 / 1023
    )
    assert shuffle_quality(*windows_of(corpus), np.array(sizes)).mean_displacement == 0


@pytest.mark.slow
def test_the_shuffle_of_few_windows_is_uniform() -> None:
    # 3 row groups of 1 and 2 windows: 5! orders, some only reached across row groups.
    sizes = [1, 2, 2]
    counts = Counter(
        tuple(places_of(order_of(sizes, shuffle=True, seed=seed, epoch=1, groups=None), sizes))
        for seed in range(6000)
    )
    assert len(counts) == 120
    # Chi-square with 119 degrees of freedom: 174 is passed by chance once in a thousand.
    assert sum((count - 50) ** 2 / 50 for count in counts.values()) < 174


def test_seed_and_epoch_change_the_order() -> None:
    sizes = [10] * 10
    orders = {
        tuple(places_of(order_of(sizes, shuffle=True, seed=seed, epoch=epoch, groups=4), sizes))
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    }
    assert len(orders) == 6


def test_the_order_is_the_same_in_every_release() -> None:
    # A resumed run must see the order it began with: these values must never change.
    assert permutation(8, (0, 0)).tolist() == [0, 3, 7, 5, 1, 2, 6, 4]
    assert permutation(8, (7, 3, 1)).tolist() == [6, 4, 1, 2, 3, 5, 0, 7]
    order = order_of([2, 1, 3, 2], shuffle=True, seed=1, epoch=2, groups=2)
    assert places_of(order, [2, 1, 3, 2]) == [6, 2, 7, 1, 4, 0, 3, 5]


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_permutation_holds_every_place_once(size: int) -> None:
    assert sorted(permutation(size, (1,)).tolist()) == list(range(size))


def test_a_permutation_moves_places_uniformly() -> None:
    firsts = [int(permutation(10, (seed,))[0]) for seed in range(2000)]
    counts = np.bincount(firsts, minlength=10)
    # Chi-square with 9 degrees of freedom: 27.9 is passed by chance once in a thousand.
    assert ((counts - 200) ** 2 / 200).sum() < 27.9
