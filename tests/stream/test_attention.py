"""A batch whose documents share rows has no mask that a student could read, however it travels."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader

from softtargets import Batch, SoftTargetDataset, collate
from softtargets.errors import InputError
from tests.windows import make_window


@pytest.fixture
def shared(rng: np.random.Generator) -> Batch:
    return collate([make_window(rng, num_tokens=length)[0] for length in (5, 3)])


@pytest.mark.parametrize(
    "use",
    [
        lambda mask: mask.ndim,
        lambda mask: mask.sum(dim=1),
        lambda mask: mask.to("cpu"),
        lambda mask: mask[:, -1],
        lambda mask: list(mask),
        lambda mask: len(mask),
        lambda mask: mask and 1,
        lambda mask: torch.all(mask),
        lambda mask: torch.ones(2, 5) * mask,
    ],
)
def test_every_use_of_the_mask_says_what_to_use(
    shared: Batch, use: Callable[[Any], object]
) -> None:
    with pytest.raises(InputError, match=r"student_inputs\(batch\), as documents share rows"):
        use(shared["attention_mask"])


def test_a_batch_without_a_mask_travels_like_any_other(shared: Batch) -> None:
    batches: Any = [shared]
    moved = [
        shared.to("cpu"),
        send_to_device(shared, torch.device("cpu")),
        copy.copy(shared),
        copy.deepcopy(shared),
        pickle.loads(pickle.dumps(shared)),
        Batch({**shared}),
        next(iter(DataLoader(batches, batch_size=None))),
        next(iter(DataLoader(batches, batch_size=None, num_workers=1))),
    ]
    for batch in moved:
        batch.check()
        assert batch["attention_mask"] is shared["attention_mask"]
        assert batch.token_mask().tolist() == [[True] * 5, [True] * 3 + [False] * 2]
        assert batch.soft_targets().mask.any()


def test_where_no_row_is_shared_the_mask_is_that_of_padding(store: Any) -> None:
    for batch in SoftTargetDataset(store, batch_size=4):
        assert batch["num_segments"] == 1
        assert batch["attention_mask"].dtype == torch.int64
        assert torch.equal(batch["attention_mask"], batch.token_mask().long())


def test_a_batch_is_printed_in_one_line(shared: Batch) -> None:
    assert repr(shared) == str(shared)
    assert repr(shared) == (
        "Batch(input_ids=[2, 5] on cpu, windows=2, "
        f"num_targets={shared['num_targets']}, num_segments=2, temperatures=(1.0, 2.0), "
        "vocab_size=300)"
    )
    assert repr(Batch()) == "Batch(windows=0)"
