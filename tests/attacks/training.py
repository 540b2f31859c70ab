"""Attacks on training: batches changed by hand, and numbers that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from softtargets import Batch, collate, distillation_loss
from softtargets.errors import SoftTargetsError
from softtargets.train import fused_distillation_loss
from softtargets.train.student import check_embeddings
from tests.attacks.attack import Attack
from tests.windows import KINDS, make_window

VOCAB_SIZE, WIDTH = 300, 16
Change = Callable[[Batch], object]


def make_batch() -> Batch:
    rng = np.random.default_rng(0)
    return collate([make_window(rng, KINDS["hybrid"], num_tokens=9)[0] for _ in range(2)])


def make_head(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Return hidden states and the weight of a student's head."""
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 9, WIDTH), (VOCAB_SIZE, WIDTH)
    hidden, weight = (torch.randn(one, generator=generator).to(dtype) for one in shapes)
    return hidden.requires_grad_(), weight.requires_grad_()


def refused(call: Callable[[], object]) -> None:
    """Call, and end as a command does: an error of the package is a message and exit code 1."""
    try:
        call()
    except SoftTargetsError as error:
        raise SystemExit(f"Error: {error}") from None


def train(change: Change, is_fused: bool, options: dict[str, Any], _: Path) -> None:
    batch, (hidden, weight) = make_batch(), make_head()
    change(batch)

    def learn() -> None:
        if is_fused:
            loss = fused_distillation_loss(hidden, weight, batch, **options)
        else:
            loss = distillation_loss(hidden @ weight.T, batch, **options)
        loss.backward()

    refused(learn)


def label(value: int) -> Change:
    def change(batch: Batch) -> None:
        batch["labels"][0, 3] = value

    return change


def entry(name: str, value: int) -> Change:
    def change(batch: Batch) -> None:
        batch[name][0, 3, 0] = value

    return change


def cut(name: str, axis: int) -> Change:
    def change(batch: Batch) -> None:
        batch[name] = batch[name].narrow(axis, 0, batch[name].shape[axis] - 1)

    return change


def rounded(batch: Batch) -> None:
    batch["tail_mass"] = batch["tail_mass"].bfloat16()


def read_without_embeddings(_: Path) -> None:
    student = torch.nn.Module()
    student.get_input_embeddings = lambda: torch.nn.Embedding(4, 2)  # type: ignore[assignment]
    refused(lambda: check_embeddings(student, make_batch()))


def lose_gradients(scale: float, _: Path) -> None:
    """Train in float16, of so many targets that their gradients are below its smallest number."""
    hidden, weight = make_head(torch.float16)
    loss = fused_distillation_loss(hidden, weight, make_batch(), num_targets=100_000)
    (loss * scale).backward()
    assert weight.grad is not None
    assert hidden.grad is not None
    if (weight.grad == 0).all(dim=1).any() or not (hidden.grad[:, :-1] != 0).any(dim=2).all():
        raise SystemExit("gradients are lost")
    if not (weight.grad.isfinite().all() and hidden.grad.isfinite().all()):
        raise SystemExit("gradients are infinite")


def diverge(value: float, is_fused: bool, _: Path) -> None:
    """Train a student whose hidden states are no numbers: the loss must not be one."""
    hidden, weight = make_head()
    with torch.no_grad():
        hidden[0, 2, 1] = value
    for ce_weight in (0.0, 0.5, 1.0):
        if is_fused:
            loss = fused_distillation_loss(hidden, weight, make_batch(), ce_weight=ce_weight)
        else:
            loss = distillation_loss(hidden @ weight.T, make_batch(), ce_weight=ce_weight)
        if loss.isfinite():
            raise SystemExit(f"the loss is {loss.item()}")


def differentiate(is_again: bool, _: Path) -> None:
    hidden, weight = make_head()
    loss = fused_distillation_loss(hidden, weight, make_batch())
    if is_again:
        loss.backward(retain_graph=True)
    refused(lambda: torch.autograd.grad(loss, hidden, create_graph=not is_again))


LOSSES = {"logits": False, "the fused loss": True}
CHANGES: dict[str, dict[str, tuple[Change, dict[str, Any]]]] = {
    "a label that the student lacks": {
        "-100 where there is a target": (label(-100), {"ce_weight": 0.5}),
        "one past the last id": (label(VOCAB_SIZE), {"ce_weight": 1.0}),
        "an enormous one": (label(2**62), {"ce_weight": 0.1}),
        "of the tail": (label(-1), {"tail": "label"}),
    },
    "an entry or draw that the student lacks": {
        "an entry": (entry("id_plane_1", 255), {"tail": "bucket"}),
        "an entry, spread uniformly": (entry("id_plane_1", 255), {"tail": "uniform"}),
        "a draw": (entry("sample_ids", VOCAB_SIZE), {}),
        "a negative draw": (entry("sample_ids", -1), {}),
    },
    "a batch whose tensors do not fit each other": {
        "a window less of targets": (cut("tail_mass", 0), {}),
        "a token less of the input": (cut("input_ids", 1), {}),
        "a token less of the mask": (cut("target_mask", 1), {}),
        "a token less of labels": (cut("labels", 1), {"ce_weight": 0.5}),
        "a token less of the steps": (cut("steps", 1), {}),
        "numbers that were rounded": (rounded, {}),
    },
}

ATTACKS: tuple[Attack, ...] = (
    *(
        Attack(
            kind=kind,
            name=f"{name}, on {where}",
            run=partial(train, change, is_fused, options),
        )
        for kind, changes in CHANGES.items()
        for name, (change, options) in changes.items()
        for where, is_fused in LOSSES.items()
    ),
    Attack(
        kind="an entry or draw that the student lacks",
        name="an id without an embedding",
        run=read_without_embeddings,
    ),
    *(
        Attack(
            kind="gradients that float16 cannot hold",
            name=f"a loss multiplied by 2^{power}",
            run=partial(lose_gradients, 2.0**power),
            wanted="survived",
        )
        for power in (10, 16, 19, 24)
    ),
    *(
        Attack(
            kind="a student that has diverged",
            name=f"{value}, on {where}",
            run=partial(diverge, value, is_fused),
            wanted="survived",
        )
        for value in (float("nan"), float("inf"))
        for where, is_fused in LOSSES.items()
    ),
    *(
        Attack(
            kind="a gradient that a fused loss does not have",
            name=name,
            run=partial(differentiate, is_again),
        )
        for name, is_again in (("a second backward pass", True), ("create_graph=True", False))
    ),
)
