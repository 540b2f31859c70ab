"""Gradients under the factors by which a GradScaler multiplies losses, against float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from softtargets import Batch, collate, distillation_loss
from softtargets.train import JSD, ForwardKL, ReverseKL, SkewKL, fused_distillation_loss
from softtargets.train.losses import make_objective
from tests.windows import KINDS, make_window

LENGTHS = (9, 5, 12)
SCALES = [2.0**power for power in (0, 10, 16, 19, 24)]
MOST_TO_PLAIN = 1.5
"""The error of the fused gradient, to that of the plain one."""
TINY = 2.0**-22
"""Of a gradient's length: two roundings of float32."""
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("topk", {}),
    ("topk", {"temperature": 2.0, "ce_weight": 0.3}),
    ("topk", {"ce_weight": 1.0}),
    *[("topk", {"tail": tail}) for tail in ("label", "renormalize", "uniform")],
    *[("topk", {"divergence": one}) for one in (ReverseKL(), JSD(0.5), SkewKL(0.1))],
    ("hybrid", {"ce_weight": 0.3}),
    # Of these, most gradients are below float16's smallest number until they are scaled.
    ("topk", {"num_targets": 8192}),
    ("topk", {"num_targets": 8192, "ce_weight": 0.3, "tail": "uniform"}),
    ("hybrid", {"num_targets": 8192}),
]


@dataclass(frozen=True, kw_only=True)
class Format:
    """The number format of products, and of a student's weights and hidden states."""

    products: torch.dtype
    hidden: torch.dtype
    weight: torch.dtype

    @property
    def is_autocast(self) -> bool:
        return self.weight != self.products

    def __str__(self) -> str:
        names = (str(one).removeprefix("torch.") for one in (self.products, self.hidden))
        return ("autocast " if self.is_autocast else "") + " of ".join(names)


FORMATS = [
    Format(products=narrow, hidden=hidden, weight=weight)
    for narrow in (torch.float16, torch.bfloat16)
    # Under autocast a final norm gives float32, where its own weight is.
    for hidden, weight in ((narrow, narrow), (narrow, torch.float32), (torch.float32,) * 2)
] + [Format(products=torch.float32, hidden=torch.float32, weight=torch.float32)]


@dataclass(frozen=True, kw_only=True)
class Head:
    """A student's hidden states and output head, whose gradients are compared."""

    hidden_BLD: torch.Tensor
    weight_VD: torch.Tensor
    own: Format

    def leaves(self) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            self.hidden_BLD.to(self.own.hidden, copy=True).requires_grad_(),
            self.weight_VD.to(self.own.weight, copy=True).requires_grad_(),
        )

    def gradients(
        self, batch: Batch, scale: float, options: dict[str, Any], *, chunk_size: int | None
    ) -> list[torch.Tensor]:
        """Return those of the fused loss if there is a chunk size, else of the plain one."""
        hidden, weight = self.leaves()
        with torch.autocast("cpu", dtype=self.own.products, enabled=self.own.is_autocast):
            if chunk_size is None:
                loss = distillation_loss(hidden @ weight.T, batch, **options)
            else:
                loss = fused_distillation_loss(
                    hidden, weight, batch, chunk_size=chunk_size, **options
                )
        (loss * scale).backward()
        assert hidden.grad is not None
        assert weight.grad is not None
        return [hidden.grad, weight.grad]

    def exact_gradients(self, batch: Batch, options: dict[str, Any]) -> list[torch.Tensor]:
        """Return those at the same, rounded logits by all else in float64, unscaled."""
        hidden, weight = (one.detach().to(self.own.products) for one in self.leaves())
        defaults: dict[str, Any] = {
            "temperature": 1.0, "ce_weight": 0.0, "divergence": ForwardKL(), "tail": None,
            "confidence_power": 0.0, "num_targets": None, "teacher_head": None,
        }  # fmt: skip
        objective = make_objective(batch, **(defaults | options))
        logits_NV = (hidden @ weight.T).flatten(0, 1)[objective.places_N].double().requires_grad_()
        (grad_NV,) = torch.autograd.grad(objective.loss(logits_NV), logits_NV)
        places_N = objective.places_N
        flat_ND = hidden.flatten(0, 1).double()
        grad_ND = torch.zeros_like(flat_ND).index_copy(0, places_N, grad_NV @ weight.double())
        return [grad_ND.view(hidden.shape), grad_NV.T @ flat_ND[places_N]]


def make_batch(kind: str) -> Batch:
    rng = np.random.default_rng(0)
    return collate([make_window(rng, KINDS[kind], num_tokens=length)[0] for length in LENGTHS])


def make_head(own: Format, vocab_size: int, width: int) -> Head:
    """Return a student that is sure of some things: its probabilities span many powers of ten."""
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn((len(LENGTHS), max(LENGTHS), width), generator=generator)
    weight = torch.randn((vocab_size, width), generator=generator) * 4 / width**0.5
    return Head(hidden_BLD=hidden, weight_VD=weight, own=own)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the length of the difference to that of the expected."""
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("kind", "options", "shape"),
    [(*one, (300, 24, 4)) for one in OPTIONS] + [(*OPTIONS[0], (517, 33, 100))],
)
@pytest.mark.parametrize("own", FORMATS, ids=str)
def test_gradients_are_as_exact_as_on_logits_at_every_scale(
    own: Format, kind: str, options: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    batch, head = make_batch(kind), make_head(own, *shape[:2])
    exact = head.exact_gradients(batch, options)
    plain_errors = [torch.inf, torch.inf]
    for scale in SCALES:
        plain = head.gradients(batch, scale, options, chunk_size=None)
        fused = head.gradients(batch, scale, options, chunk_size=shape[2])
        for which, expected in enumerate(one * scale for one in exact):
            found = fused[which]
            # Past its largest number the plain one has no error; that at the scale before counts.
            if plain[which].isfinite().all():
                plain_errors[which] = error(plain[which], expected)
            sizes = expected.abs() / torch.finfo(found.dtype).max
            # A GradScaler leaves a step out when it sees what is infinite.
            assert found[sizes > 1.01].isinf().all()
            is_finite = sizes < 0.99
            own_error = error(torch.where(is_finite, found, expected), expected)
            assert own_error <= MOST_TO_PLAIN * plain_errors[which] + TINY


def test_few_targets_of_many_do_not_vanish_in_float16() -> None:
    """One over 8,192 times most probabilities is below float16's smallest number."""
    own = Format(products=torch.float16, hidden=torch.float16, weight=torch.float32)
    batch, head = make_batch("topk"), make_head(own, 4000, 24)
    options = {"num_targets": 8192}
    for found, exact in zip(
        head.gradients(batch, 2.0**19, options, chunk_size=8),
        head.exact_gradients(batch, options),
        strict=True,
    ):
        assert error(found, exact * 2.0**19) < 1e-3
    # The last one is that of the head: a row for each id.
    assert ((found != 0).any(dim=1) == (exact != 0).any(dim=1)).all()
