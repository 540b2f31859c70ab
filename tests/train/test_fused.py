from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from softtargets import Batch, collate, distillation_loss
from softtargets.errors import InputError
from softtargets.train import JSD, ForwardKL, ReverseKL, SkewKL, fused_distillation_loss
from tests.train.dense import largest_tensor
from tests.windows import KINDS, make_window

WIDTH = 24
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("topk", {}),
    ("topk", {"temperature": 2.0}),
    ("topk", {"ce_weight": 0.3}),
    ("topk", {"ce_weight": 1.0}),
    ("topk", {"temperature": 2.0, "ce_weight": 0.3, "confidence_power": 0.5}),
    ("topk", {"num_targets": 7}),
    *[("topk", {"tail": tail}) for tail in ("label", "renormalize", "uniform")],
    ("topk", {"tail": "uniform", "temperature": 2.0, "ce_weight": 0.3, "divergence": JSD(0.3)}),
    *[("topk", {"divergence": one}) for one in (ReverseKL(), JSD(0.5), SkewKL(0.1))],
    ("sampled", {"ce_weight": 0.3}),
    ("sampled-with-logits", {"temperature": 1.0}),
    ("hybrid", {"temperature": 2.0}),
]


def make_batch(rng: np.random.Generator, kind: str) -> Batch:
    windows = [make_window(rng, KINDS[kind], num_tokens=length)[0] for length in (9, 5, 12)]
    windows[0].mask_T[2] = False
    return collate(windows)


def student(
    dtype: torch.dtype, vocab_size: int = 300
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return hidden states, weight and bias of a head, leaves that take gradients."""
    generator = torch.Generator().manual_seed(5)
    shapes = (3, 12, WIDTH), (vocab_size, WIDTH), (vocab_size,)
    hidden, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return hidden.requires_grad_(), (0.3 * weight).requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize("chunk_size", [1, 4, 1000])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_the_loss_and_its_gradients_are_those_of_the_logits(
    rng: np.random.Generator, kind: str, options: dict[str, Any], has_bias: bool, chunk_size: int
) -> None:
    batch = make_batch(rng, kind)
    gradients, losses = [], []
    for is_fused in (False, True):
        hidden, weight, bias = student(torch.float32)
        if is_fused:
            loss = fused_distillation_loss(
                hidden, weight, batch, head_bias=bias if has_bias else None,
                chunk_size=chunk_size, **options,
            )  # fmt: skip
        else:
            logits = hidden @ weight.T + (bias if has_bias else 0)
            loss = distillation_loss(logits, batch, **options)
        (3 * loss).backward()
        losses.append(loss)
        gradients.append([one.grad for one in (hidden, weight, bias)[: 2 + has_bias]])
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        assert expected is not None
        assert expected.abs().max() > 1e-3


def test_in_bfloat16_it_is_as_near_as_its_rounding(rng: np.random.Generator) -> None:
    batch = make_batch(rng, "topk")
    found = fused_distillation_loss(*student(torch.bfloat16)[:2], batch, chunk_size=4)
    hidden, weight, _ = student(torch.bfloat16)
    exact = [one.detach().float().requires_grad_() for one in (hidden, weight)]
    expected = fused_distillation_loss(exact[0], exact[1], batch, chunk_size=4)
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0)
    fused_distillation_loss(hidden, weight, batch, chunk_size=4).backward()
    expected.backward()
    for own, other in zip((hidden, weight), exact, strict=True):
        assert own.grad is not None
        assert own.grad.dtype == torch.bfloat16
        assert other.grad is not None
        assert (own.grad.float() - other.grad).norm() < 0.02 * other.grad.norm()


def test_under_autocast_the_weights_stay_wide(rng: np.random.Generator) -> None:
    batch = make_batch(rng, "topk")
    hidden, weight, _ = student(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = fused_distillation_loss(hidden.bfloat16(), weight, batch)
    loss.backward()
    assert weight.grad is not None
    assert hidden.grad is not None
    assert (weight.grad.dtype, hidden.grad.dtype) == (torch.float32, torch.float32)


def test_a_second_backward_pass_is_refused(rng: np.random.Generator) -> None:
    hidden, weight, _ = student(torch.float32)
    loss = fused_distillation_loss(hidden, weight, make_batch(rng, "topk"))
    loss.backward(retain_graph=True)
    with pytest.raises(InputError, match="one backward pass for each loss; found a second one"):
        loss.backward()


def test_a_gradient_with_a_graph_is_refused(rng: np.random.Generator) -> None:
    """It has none: what is differentiated again would silently be without it."""
    hidden, weight, _ = student(torch.float32)
    batch = make_batch(rng, "topk")
    loss = fused_distillation_loss(hidden, weight, batch)
    with pytest.raises(InputError, match="without create_graph=True; found one with it"):
        torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(InputError, match="create_graph"):
        torch.autograd.functional.hvp(
            lambda one: fused_distillation_loss(one, weight, batch), hidden, hidden
        )
    loss.backward()  # Nothing is used up.
    assert hidden.grad is not None


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_student_logits_that_are_no_numbers_give_no_number(
    rng: np.random.Generator, kind: str, options: dict[str, Any]
) -> None:
    """A loss of 0 would hide that the student has diverged."""
    batch = make_batch(rng, kind)
    hidden, weight, _ = student(torch.float32)
    with torch.no_grad():
        hidden[0, 0, 0] = torch.nan
    loss = fused_distillation_loss(hidden, weight, batch, **options)
    assert loss.isnan()
    assert distillation_loss(hidden @ weight.T, batch, **options).isnan()
    loss.backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    assert hidden.grad[0, 0].isnan().all()
    assert weight.grad.isnan().all()
    assert hidden.grad[1:].isfinite().all()
    # Where nothing is trained on, nothing is seen.
    with torch.no_grad():
        hidden[0, 0, 0], hidden[0, 8] = 0, torch.nan
    assert fused_distillation_loss(hidden, weight, batch, **options).isfinite()


def test_a_frozen_head_gets_no_gradient(rng: np.random.Generator) -> None:
    hidden, weight, _ = student(torch.float32)
    batch = make_batch(rng, "topk")
    fused_distillation_loss(hidden, weight.detach(), batch).backward()
    assert hidden.grad is not None
    assert hidden.grad.abs().max() > 0


def test_a_batch_without_targets_gives_zero(rng: np.random.Generator) -> None:
    windows = [make_window(rng, num_tokens=12)[0] for _ in range(3)]
    for window in windows:
        window.mask_T[:] = False
    batch = collate(windows)
    for ce_weight in (0.0, 0.5, 1.0):
        hidden, weight, _ = student(torch.float32)
        loss = fused_distillation_loss(hidden, weight, batch, ce_weight=ce_weight)
        loss.backward()
        assert loss.item() == 0
        assert hidden.grad is not None
        assert (hidden.grad == 0).all()
        assert weight.grad is not None
        assert (weight.grad == 0).all()


def test_no_tensor_of_all_logits_is_made(rng: np.random.Generator) -> None:
    """The negative control is the loss on logits, where one is."""
    batch = make_batch(rng, "topk")
    num_targets = int(batch["target_mask"].sum())

    hidden, weight, _ = student(torch.float32)

    def train(is_fused: bool) -> None:
        if is_fused:
            loss = fused_distillation_loss(hidden, weight, batch, chunk_size=4)
        else:
            loss = distillation_loss(hidden @ weight.T, batch)
        loss.backward()

    assert largest_tensor(partial(train, is_fused=False)) >= num_targets * 300
    assert largest_tensor(partial(train, is_fused=True)) == max(300 * WIDTH, 4 * 300)


def test_shapes_that_do_not_fit_are_refused(rng: np.random.Generator) -> None:
    batch = make_batch(rng, "topk")
    hidden, weight, _ = student(torch.float32)
    with pytest.raises(InputError, match=r"shape \[3, 12, D\].*found \[3, 11, 24\]"):
        fused_distillation_loss(hidden[:, 1:], weight, batch)
    with pytest.raises(InputError, match="at least the teacher's vocabulary of 300 columns"):
        fused_distillation_loss(hidden, weight[:299], batch)


def test_options_are_checked_as_on_logits(rng: np.random.Generator) -> None:
    batch = make_batch(rng, "sampled")
    hidden, weight, _ = student(torch.float32)
    for divergence, tail in itertools.product((ReverseKL(), ForwardKL()), ("bucket", "label")):
        with pytest.raises(InputError, match="expected targets with a head of exact entries"):
            fused_distillation_loss(hidden, weight, batch, divergence=divergence, tail=tail)  # type: ignore[arg-type]
