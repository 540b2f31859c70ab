from __future__ import annotations

from typing import Any

import pytest
import torch

from softtargets import Batch, collate
from softtargets.errors import InputError
from softtargets.store import Store
from softtargets.train import fused_distillation_loss
from tests.train.scales import FORMATS, Format, check_gradients, make_batch, make_head
from tests.train.test_loss_scales import OPTIONS

pytestmark = pytest.mark.gpu
ORDER = 2.0**-16
"""Of a gradient's length: products of other shapes sum in another order."""


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
@pytest.mark.parametrize("own", FORMATS, ids=str)
def test_gradients_are_as_exact_as_on_logits_at_every_scale(
    device: str, own: Format, kind: str, options: dict[str, Any]
) -> None:
    head = make_head(own, 517, 33, device)
    check_gradients(head, make_batch(kind, device), options, 8, tiny=ORDER)


def test_a_grad_scaler_leaves_out_a_step_that_overflows(device: str) -> None:
    own = Format(products=torch.float16, hidden=torch.float16, weight=torch.float32)
    batch, head = make_batch("topk", device), make_head(own, 300, 24, device)
    projection = torch.nn.Linear(24, 24, device=device)
    weight = head.weight_VD.to(device).requires_grad_()
    optimizer = torch.optim.SGD([*projection.parameters(), weight], lr=0.1)
    kind = torch.device(device).type
    scaler = torch.amp.GradScaler(kind, init_scale=2.0**40, growth_interval=1000)
    before, left_out, losses = weight.detach().clone(), 0, []
    for _ in range(60):
        scale = scaler.get_scale()
        with torch.autocast(kind, dtype=torch.float16):
            hidden = projection(head.hidden_BLD.to(device))
            loss = fused_distillation_loss(hidden, weight, batch, chunk_size=8)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        left_out += scaler.get_scale() < scale
        losses.append(loss.item())
    assert 0 < left_out < 40
    assert losses[-1] < losses[0]
    assert not torch.equal(before, weight)


def test_labels_that_the_student_lacks_leave_the_device_usable(device: str) -> None:
    batch = make_batch("topk", device)
    batch["labels"][0, 2] = 2**40
    hidden = torch.zeros((*batch["input_ids"].shape, 8), device=device)
    with pytest.raises(InputError, match="Batch, labels: expected ids from 0 to 299"):
        fused_distillation_loss(hidden, torch.zeros((300, 8), device=device), batch, ce_weight=0.5)
    assert torch.ones(2, device=device).sum().item() == 2


def test_a_batch_comes_back_as_it_went(device: str, store: Store) -> None:
    batch = collate(list(store)[:8])
    for is_pinned in {False, torch.device(device).type == "cuda"}:
        own = Batch(
            {
                name: value.pin_memory() if is_pinned and torch.is_tensor(value) else value
                for name, value in batch.items()
            }
        )
        back = own.to(device, non_blocking=True).to("cpu", non_blocking=True)
        for name, value in batch.items():
            assert torch.equal(back[name], value) if torch.is_tensor(value) else back[name] == value
    found = batch.to(device).soft_targets(2.0)
    expected = batch.soft_targets(2.0)
    assert torch.equal(found.ids.cpu(), expected.ids)
    torch.testing.assert_close(found.logprobs.cpu(), expected.logprobs)
