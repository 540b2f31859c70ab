"""Gradients of both losses in any number format, and what they are in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from softtargets import Batch, collate, distillation_loss
from softtargets.train import ForwardKL, fused_distillation_loss
from softtargets.train.losses import make_objective
from tests.windows import KINDS, make_window

LENGTHS = (9, 5, 12)
SCALES = [2.0**power for power in (0, 10, 16, 19, 24)]
MOST_TO_PLAIN = 1.5
"""The error of the fused gradient, to that of the plain one."""
TINY = 2.0**-22
"""Of a gradient's length: two roundings of float32."""


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
    device: str = "cpu"

    def leaves(self) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            self.hidden_BLD.to(self.device, self.own.hidden, copy=True).requires_grad_(),
            self.weight_VD.to(self.device, self.own.weight, copy=True).requires_grad_(),
        )

    def gradients(
        self, batch: Batch, scale: float, options: dict[str, Any], *, chunk_size: int | None
    ) -> list[torch.Tensor]:
        """Return those of the fused loss if there is a chunk size, else of the plain one."""
        hidden, weight = self.leaves()
        kind = torch.device(self.device).type
        with torch.autocast(kind, dtype=self.own.products, enabled=self.own.is_autocast):
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


def make_batch(kind: str, device: str = "cpu") -> Batch:
    rng = np.random.default_rng(0)
    windows = [make_window(rng, KINDS[kind], num_tokens=length)[0] for length in LENGTHS]
    return collate(windows).to(device)


def make_head(own: Format, vocab_size: int, width: int, device: str = "cpu") -> Head:
    """Return a student that is sure of some things: its probabilities span many powers of ten."""
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn((len(LENGTHS), max(LENGTHS), width), generator=generator)
    weight = torch.randn((vocab_size, width), generator=generator) * 4 / width**0.5
    return Head(hidden_BLD=hidden, weight_VD=weight, own=own, device=device)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the length of the difference to that of the expected."""
    return float((found.double() - expected).norm() / expected.norm())


def check_gradients(
    head: Head, batch: Batch, options: dict[str, Any], chunk_size: int, tiny: float = TINY
) -> None:
    """Check the fused gradients at every scale: as near to float64 as the plain ones are."""
    exact = head.exact_gradients(batch, options)
    plain_errors = [torch.inf, torch.inf]
    for scale in SCALES:
        plain = head.gradients(batch, scale, options, chunk_size=None)
        fused = head.gradients(batch, scale, options, chunk_size=chunk_size)
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
            assert own_error <= MOST_TO_PLAIN * plain_errors[which] + tiny
