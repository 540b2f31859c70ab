from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softtargets.store.store import RowGroupRef
from softtargets.stream.order import epoch_blocks, permutation


def refs(sizes: list[int]) -> list[RowGroupRef]:
    firsts = np.cumsum([0, *sizes])
    return [
        RowGroupRef(shard=0, group=group, first_window=int(firsts[group]), num_windows=size)
        for group, size in enumerate(sizes)
    ]


def order_of(sizes: list[int], *, shuffle: bool, seed: int, epoch: int, groups: int) -> list[int]:
    places: list[int] = []
    for block in epoch_blocks(
        refs(sizes), shuffle=shuffle, seed=seed, epoch=epoch, block_groups=groups
    ):
        within = np.concatenate(
            [
                np.arange(ref.first_window, ref.first_window + ref.num_windows)
                for ref in block.row_groups
            ]
        )
        places += within[block.order].tolist()
    return places


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=20),
    st.booleans(),
    st.integers(0, 2**40),
    st.integers(0, 5),
    st.integers(1, 8),
)
def test_every_window_once(
    sizes: list[int], shuffle: bool, seed: int, epoch: int, groups: int
) -> None:
    places = order_of(sizes, shuffle=shuffle, seed=seed, epoch=epoch, groups=groups)
    assert sorted(places) == list(range(sum(sizes)))
    if not shuffle:
        assert places == list(range(sum(sizes)))


def test_seed_and_epoch_change_the_order() -> None:
    orders = {
        tuple(order_of([10] * 10, shuffle=True, seed=seed, epoch=epoch, groups=4))
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    }
    assert len(orders) == 6


def test_the_order_is_the_same_in_every_release() -> None:
    # A resumed run must see the order it began with: these values must never change.
    assert permutation(8, (0, 0)).tolist() == [0, 3, 7, 5, 1, 2, 6, 4]
    assert permutation(8, (7, 3, 1)).tolist() == [6, 4, 1, 2, 3, 5, 0, 7]


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_permutation_holds_every_place_once(size: int) -> None:
    assert sorted(permutation(size, (1,)).tolist()) == list(range(size))


def test_a_permutation_moves_places_uniformly() -> None:
    firsts = [int(permutation(10, (seed,))[0]) for seed in range(2000)]
    counts = np.bincount(firsts, minlength=10)
    # Chi-square with 9 degrees of freedom: 27.9 is passed by chance once in a thousand.
    assert ((counts - 200) ** 2 / 200).sum() < 27.9
