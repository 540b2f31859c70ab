"""Stops in an epoch and goes on, with other ranks, workers and batch sizes each time."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from softtargets import Mixture, SoftTargetDataset, Store

WRONG = ("lost", "doubled", "in another order", "after the end")


def deliver(
    store: Store | Mixture,
    state: Any,
    *,
    world_size: int,
    batch_size: int | None,
    num_workers: int,
    most: int,
) -> tuple[list[str], Any]:
    """Deliver at most so many steps on every rank; return ids in the order of places, and state."""
    ranks: list[list[list[str]]] = []
    states = []
    for rank in range(world_size):
        dataset = SoftTargetDataset(
            store, shuffle=True, seed=3, shuffle_groups=2, rank=rank, world_size=world_size,
            batch_size=batch_size, num_threads=rank % 2,
        )  # fmt: skip
        dataset.set_epoch(2)
        if state is not None:
            dataset.load_state_dict(state)
        steps = []
        after = None
        if batch_size is None:
            stream = iter(dataset)
            steps = [[window.window_id] for _, window in zip(range(most), stream, strict=False)]
        else:
            loader = DataLoader(dataset, batch_size=None, num_workers=num_workers)
            for _, after in zip(range(most), loader, strict=False):
                steps.append(after["window_id"])
        if after is None and num_workers:
            states.append(state or dataset.state_dict())
        else:
            states.append(dataset.state_dict(after))
        ranks.append(steps)
    assert len({len(steps) for steps in ranks}) == 1
    assert all(one == states[0] for one in states), "every rank has the same state"
    assert len(json.dumps(states[0])) < 1024
    rows = [
        one
        for step in zip(*ranks, strict=True)
        for together in zip(*step, strict=True)
        for one in together
    ]
    return [one for one in rows if one], states[0]


def fuzz_resume(
    store: Store | Mixture, num_cases: int, max_workers: int, seed: int
) -> Counter[str]:
    """Stop and go on, once to four times, with other ranks, workers and batch sizes each time."""
    reference = SoftTargetDataset(store, shuffle=True, seed=3, shuffle_groups=2)
    reference.set_epoch(2)
    whole = [window.window_id for window in reference]
    rng = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    for _ in range(num_cases):
        found: list[str] = []
        state = None
        for left in reversed(range(int(rng.integers(2, 6)))):
            batch_size = None if rng.random() < 0.3 else int(rng.integers(1, 6))
            workers = 0 if batch_size is None else int(rng.integers(0, max_workers + 1))
            most = 10**6 if left == 0 else int(rng.integers(0, 6))
            own, state = deliver(
                store, json.loads(json.dumps(state)), world_size=int(rng.integers(1, 5)),
                batch_size=batch_size, num_workers=workers, most=most,
            )  # fmt: skip
            found += own
            counts["stops"] += left > 0
            counts["before the first batch"] += most == 0
            counts["with workers"] += workers > 0
        counts["cases"] += 1
        counts["lost"] += (Counter(whole) - Counter(found)).total()
        counts["doubled"] += (Counter(found) - Counter(whole)).total()
        counts["in another order"] += found != whole
        # Taken at the epoch's end: nothing of it is left.
        rest, _ = deliver(store, state, world_size=2, batch_size=3, num_workers=0, most=10**6)
        counts["after the end"] += len(rest)
    return counts
