from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from softtargets import Batch, collate, distillation_loss
from softtargets.train import fused_distillation_loss
from tests.card import DEVICE, card
from tests.train.test_fused import OPTIONS
from tests.windows import KINDS, make_window


def gradients(
    batch: Batch, device: torch.device | str, options: dict[str, Any], is_fused: bool
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn((*batch["input_ids"].shape, 24), generator=generator).to(device)
    weight = torch.randn((300, 24), generator=generator).to(device)
    hidden.requires_grad_()
    weight.requires_grad_()
    if is_fused:
        loss = fused_distillation_loss(hidden, weight, batch, chunk_size=8, **options)
    else:
        loss = distillation_loss(hidden @ weight.T, batch, **options)
    return [one.cpu() for one in torch.autograd.grad(loss, (hidden, weight))]


@pytest.mark.slow
@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_losses_are_computed_where_student_and_batch_are(
    rng: np.random.Generator, kind: str, options: dict[str, Any], is_fused: bool
) -> None:
    batch = collate([make_window(rng, KINDS[kind], num_tokens=length)[0] for length in (9, 5)])
    expected = gradients(batch, "cpu", options, is_fused)
    with card():
        moved = batch.to(DEVICE, non_blocking=True)
        found = gradients(moved, DEVICE, options, is_fused)
        back = moved.to("cpu")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(back[name], value), name
