"""Hidden states in batches, and output heads in every number format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from softtargets import Batch, SoftTargetDataset, collate
from softtargets.kinds import TargetSchema
from tests.train.output_heads import LENGTHS, make_store
from tests.windows import KINDS, as_bfloat16, make_head, make_window


def test_a_batch_holds_them_as_they_are_stored(tmp_path: Path) -> None:
    store = make_store(tmp_path, "bfloat16")
    windows = list(store)
    batch = collate(windows)
    assert batch["hidden_states"].shape == (3, 12, 6)
    for row, window in enumerate(windows):
        stored_TD = torch.from_numpy(window.targets.features["last_hidden"])
        count = len(stored_TD)
        assert torch.equal(batch["hidden_states"][row, :count].float(), stored_TD)
        assert (batch["hidden_states"][row, count:] == 0).all()
    loaded = next(iter(DataLoader(SoftTargetDataset(store), 3, num_workers=1, collate_fn=collate)))
    assert isinstance(loaded, Batch)
    assert torch.equal(loaded["hidden_states"], batch["hidden_states"])
    assert loaded["output_head"] == store.targets.output_head


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_other_formats_and_positions(dtype: Literal["float16", "float32", "int8"]) -> None:
    """Listed states stand at their places, and so do the scales of those in int8."""
    schema: TargetSchema = replace(
        KINDS["assistant-tokens"],
        features=(replace(KINDS["features-alone"].features[0], dtype=dtype),),
    )
    rng = np.random.default_rng(0)
    windows = [make_window(rng, schema, num_tokens=length)[0] for length in LENGTHS]
    batch = collate(windows)
    found = batch["hidden_states"]
    assert found.dtype == getattr(torch, dtype)
    if dtype == "int8":
        found = found * batch["hidden_scales"][..., None]
    for row, window in enumerate(windows):
        assert window.positions_T is not None
        own = window.targets.features["last_hidden"]
        assert np.array_equal(found[row, window.positions_T].float(), own)
        elsewhere = np.setdiff1d(np.arange(12), window.positions_T)
        assert (found[row, elsewhere] == 0).all()


def test_a_golden_head_is_exact() -> None:
    """The format of the golden store's weights is that of torch."""
    head = make_head()
    assert np.array_equal(torch.from_numpy(head.weight_VD).bfloat16().float(), head.weight_VD)
    assert np.array_equal(as_bfloat16(head.weight_VD), head.weight_VD)
