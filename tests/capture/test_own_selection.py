"""A selection that the package knows nothing of, from a build to a loss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from softtargets import SoftTargetDataset, distillation_loss, verify
from softtargets.capture import Pins, TopK, build
from softtargets.errors import InputError
from softtargets.fidelity.own import OwnSelection
from softtargets.store import Store
from tests.fakes import FakeTeacher, build_config


@dataclass(frozen=True, slots=True, kw_only=True)
class Near(TopK):
    """Keep the highest logits that are within some nats of the first."""

    nats: float = 2.0

    def needed(self, top_logits_NK: torch.Tensor, logits_NV: torch.Tensor) -> torch.Tensor:
        del logits_NV
        return top_logits_NK[:, :1] - top_logits_NK < self.nats


def build_near(directory: Path, selection: TopK) -> Store:
    directory.mkdir()
    config = build_config(directory, selection=selection, values="float32")
    return build(config, FakeTeacher()).store


@pytest.mark.slow
def test_it_is_built_verified_streamed_and_learned_from(tmp_path: Path) -> None:
    near = build_near(tmp_path / "near", Near(k=8))
    whole = build_near(tmp_path / "whole", TopK(k=8))
    assert verify(near).is_sound
    assert near.manifest.identity["selection"] == {"kind": "topk", "k": 8, "nats": 2.0}
    counts = set()
    for window in near:
        found, all_of_them = window.targets, whole[window.window_id].targets
        for place, count in enumerate(found.num_entries_T.tolist()):
            logits_K = all_of_them.logits_TK[place]
            assert count == (logits_K[0] - logits_K < 2).sum()
            np.testing.assert_array_equal(found.logits_TK[place, :count], logits_K[:count])
        kept_T = np.exp(found.logprobs_TK(1.0)).sum(axis=1)
        np.testing.assert_allclose(kept_T + found.tail_mass_TG[:, 0], 1, atol=1e-5)
        counts |= set(found.num_entries_T.tolist())
    assert len(counts) > 3
    for batch in SoftTargetDataset(near, batch_size=4):
        logits = torch.zeros((*batch["input_ids"].shape, 300))
        assert distillation_loss(logits, batch, temperature=2.0).isfinite()


def test_the_first_entry_is_kept_whatever_it_says(tmp_path: Path) -> None:
    store = build_near(tmp_path / "store", Near(k=8, nats=0.0, pins=Pins(label=True)))
    assert verify(store).is_sound
    for window in store:
        assert set(window.targets.num_entries_T.tolist()) <= {1, 2}


def test_fidelity_says_that_it_does_not_know_it(tmp_path: Path) -> None:
    store = build_near(tmp_path / "store", Near(k=8))
    with pytest.raises(InputError, match="a store whose manifest says what was selected"):
        OwnSelection.of(store)
