from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softtargets import Mixture, SoftTargetDataset, Store
from softtargets.errors import IdentityError, InputError
from softtargets.stream.mixed_order import LEAST_TURNS, MixedOrder
from tests.golden import write_store
from tests.stream.resume import WRONG, fuzz_resume
from tests.windows import make_window, topk_schema

SIZES = (40, 25, 7)


def make_stores(directory: Path, *schemas: Any) -> list[Store]:
    rng = np.random.default_rng(0)
    stores = []
    for number, size in enumerate(SIZES):
        schema = schemas[number] if schemas else topk_schema()
        windows = [make_window(rng, schema, num_tokens=5)[0] for _ in range(size)]
        units = [windows[at : at + 4] for at in range(0, size, 4)]
        path = directory / f"store-{number}"
        stores.append(write_store(path, schema, units, corpus=f"corpus-{number}"))
    return stores


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Store]:
    return make_stores(tmp_path_factory.mktemp("stores"))


def owners(stores: list[Store]) -> dict[str, int]:
    return {one: number for number, store in enumerate(stores) for one in store.window_ids()}


@pytest.mark.slow
def test_an_epoch_has_every_window_once_by_default(stores: list[Store]) -> None:
    mixture = Mixture(stores)
    assert mixture.counts == SIZES
    found: list[str] = []
    for rank in range(3):
        dataset = SoftTargetDataset(
            mixture, shuffle=True, batch_size=5, rank=rank, world_size=3, shuffle_groups=2
        )
        found += [one for batch in dataset for one in batch["window_id"] if one]
    assert Counter(found) == Counter(list(owners(stores)))


@pytest.mark.slow
def test_every_epoch_has_the_shares_that_the_weights_ask_for(stores: list[Store]) -> None:
    mixture = Mixture(stores, [1, 1, 2], epoch_windows=30)
    assert mixture.counts == (8, 7, 15)
    dataset = SoftTargetDataset(mixture, shuffle=True, shuffle_groups=2)
    owner_of, seen = owners(stores), Counter[str]()
    turns = set()
    for epoch in range(8):
        dataset.set_epoch(epoch)
        found = [window.window_id for window in dataset]
        shares = Counter(owner_of[one] for one in found)
        assert tuple(shares[number] for number in range(3)) == (8, 7, 15)
        turns.add(tuple(owner_of[one] for one in found))
        seen.update(found)
        # A store goes on where it stopped: no window comes again before all others of its pass.
        for number, store in enumerate(stores):
            times = [seen[one] for one in store.window_ids()]
            assert max(times) - min(times) <= 1, number
    assert len(turns) == 8


def test_without_shuffling_each_store_keeps_its_order(stores: list[Store]) -> None:
    owner_of = owners(stores)
    found = [window.window_id for window in SoftTargetDataset(Mixture(stores))]
    for number, store in enumerate(stores):
        assert [one for one in found if owner_of[one] == number] == store.window_ids()
    turns = [owner_of[one] for one in found]
    assert sum(one != other for one, other in pairwise(turns)) > 20


@pytest.mark.slow
@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=4),
    st.data(),
    st.integers(0, 3),
    st.booleans(),
)
def test_every_place_is_found_without_those_before(
    sizes: list[list[int]], data: st.DataObject, epoch: int, shuffle: bool
) -> None:
    counts = [data.draw(st.integers(1, 2000)) for _ in sizes]
    order = MixedOrder(
        [np.array(one) for one in sizes], counts,
        shuffle=shuffle, seed=1, epoch=epoch, block_groups=2,
    )  # fmt: skip
    total = sum(counts)
    assert len(order) == total
    turns = [order.at(place) for place in range(total)]
    for store, count in enumerate(counts):
        own = [place for number, place in turns if number == store]
        assert own == list(range(epoch * count, (epoch + 1) * count))
    stores, groups, rows = order.windows(0, total)
    assert stores.tolist() == [store for store, _ in turns]
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    again = MixedOrder(
        [np.array(one) for one in sizes], counts,
        shuffle=shuffle, seed=1, epoch=epoch, block_groups=2,
    )  # fmt: skip
    for found, whole in zip(again.windows(start, stop), (stores, groups, rows), strict=True):
        assert found.tolist() == whole[start:stop].tolist()
    before = Counter(store for store, _ in turns[:start])
    assert again.given(start) == [epoch * n + before[store] for store, n in enumerate(counts)]
    # Within the turns, every store has its share.
    step = max(LEAST_TURNS, -(-total // min(counts)))
    for first in range(0, total - step, step):
        found_here = Counter(store for store, _ in turns[first : first + step])
        for store, count in enumerate(counts):
            assert abs(found_here[store] - count * step / total) < 2


@pytest.mark.slow
def test_steps_are_those_of_the_plan_for_any_number_of_ranks(stores: list[Store]) -> None:
    mixture = Mixture(stores, [3, 1, 1])
    plan = SoftTargetDataset(mixture, shuffle=True, batch_size=8)
    steps = [[one for one in batch["window_id"] if one] for batch in plan]
    assert [plan.plan(step) for step in range(len(plan))] == steps
    for world_size in (2, 4):
        ranks = [
            SoftTargetDataset(
                mixture, shuffle=True, global_batch_size=8, rank=rank, world_size=world_size
            )
            for rank in range(world_size)
        ]
        for step, together in zip(steps, zip(*ranks, strict=True), strict=True):
            rows = zip(*(batch["window_id"] for batch in together), strict=True)
            assert [one for row in rows for one in row if one] == step


@pytest.mark.parametrize(
    ("num_cases", "seed"), [(4, 0), pytest.param(50, 1, marks=pytest.mark.slow)]
)
def test_resuming_a_mixture_loses_and_doubles_nothing(
    stores: list[Store], num_cases: int, seed: int
) -> None:
    mixture = Mixture(stores, [1, 2, 3], epoch_windows=50)
    counts = fuzz_resume(mixture, num_cases=num_cases, max_workers=0, seed=seed)
    assert counts["stops"] > 1.5 * num_cases
    assert {name: counts[name] for name in WRONG} == dict.fromkeys(WRONG, 0)


def test_another_mixture_is_refused_on_resuming(stores: list[Store]) -> None:
    state = SoftTargetDataset(Mixture(stores, [1, 1, 1])).state_dict()
    SoftTargetDataset(Mixture([str(one.root) for one in stores], [2, 2, 2])).load_state_dict(state)
    for other in (
        Mixture(stores, [1, 1, 2]),
        Mixture(stores[::-1], [1, 1, 1]),
        Mixture(stores[:2], [1, 1]),
        stores[0],
    ):
        with pytest.raises(IdentityError, match="fingerprint"):
            SoftTargetDataset(other).load_state_dict(state)


def test_stores_that_do_not_go_together_are_refused(tmp_path: Path, stores: list[Store]) -> None:
    others = make_stores(tmp_path, topk_schema(4), topk_schema(), topk_schema())
    where = re.escape(f"head of {others[0].root}")
    with pytest.raises(IdentityError, match=where):
        Mixture([stores[0], others[0]])


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, 0], [1, 1, -1], [1, 1, float("nan")], []])
def test_weights_that_do_not_fit_are_refused(stores: list[Store], weights: list[float]) -> None:
    with pytest.raises(InputError, match="a positive weight for each"):
        Mixture(stores, weights)


def test_a_store_without_a_window_in_an_epoch_is_refused(stores: list[Store]) -> None:
    with pytest.raises(InputError, match="a window or more of each"):
        Mixture(stores, [1000, 1000, 1])
    with pytest.raises(InputError):
        Mixture([])
