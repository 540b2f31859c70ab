"""Stores with an output head, students, and the loss with the teacher beside the student."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from softtargets import Store
from softtargets.train import Divergence
from softtargets.train.divergences import needs_mass_everywhere
from tests.golden import write_store
from tests.train.dense import SMALLEST_REST, divergence_of
from tests.windows import head_schema, make_head, make_window

WIDTH = 10
LENGTHS = (9, 5, 12)
HEADS = {
    "bfloat16": make_head(),
    "float32": replace(make_head(), dtype="float32", softcap=20.0, divisor=0.1),
    "ruled out": replace(
        make_head(),
        dtype="float32",
        softcap=None,
        bias_V=np.where(np.arange(300) % 3 == 0, -np.inf, 1).astype(np.float32),
    ),
}


def make_store(directory: Path, head: str = "float32") -> Store:
    schema = head_schema(HEADS[head])
    rng = np.random.default_rng(0)
    windows = [make_window(rng, schema, num_tokens=length)[0] for length in LENGTHS]
    windows[0].mask_T[2] = False
    return write_store(directory / "store", schema, [windows], HEADS[head])


def student(num_ids: int = 300) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return hidden states, weight and bias of a student's head, leaves that take gradients."""
    generator = torch.Generator().manual_seed(5)
    shapes = (3, 12, WIDTH), (num_ids, WIDTH), (num_ids,)
    hidden, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    return hidden.requires_grad_(), (0.3 * weight).requires_grad_(), bias.requires_grad_()


def live_logits(store: Store) -> torch.Tensor:
    """Return the teacher's logits [N, V] at all targets, by the formula, in float64."""
    head = store.output_head()
    rows = []
    for window in store:
        hidden_TD = window.targets.features["last_hidden"][window.mask_T].astype(np.float64)
        logits_TV = hidden_TD @ head.weight_VD.T.astype(np.float64)
        if head.bias_V is not None:
            logits_TV += head.bias_V
        logits_TV = logits_TV * head.scale / head.divisor
        if head.softcap is not None:
            logits_TV = head.softcap * np.tanh(logits_TV / head.softcap)
        rows.append(logits_TV)
    return torch.from_numpy(np.concatenate(rows))


def online_losses(
    divergence: Divergence, teacher_NV: torch.Tensor, student_NU: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return what distillation with the teacher beside the student gives [N], in float64.

    Ids that the teacher rules out, and those it does not have, are one outcome.
    """
    num_more = student_NU.shape[1] - teacher_NV.shape[1]
    t_NU = torch.nn.functional.pad((teacher_NV / temperature).softmax(dim=1), (0, num_more))
    s_NU = (student_NU.double() / temperature).softmax(dim=1)
    is_none_NU = t_NU == 0
    floor_N1 = torch.where(is_none_NU, 1, t_NU).amin(dim=1, keepdim=True).clamp(max=SMALLEST_REST)
    if not (needs_mass_everywhere(divergence) and is_none_NU.any()):
        floor_N1 = torch.zeros_like(floor_N1)
    t_NB = torch.cat([t_NU, floor_N1], dim=1)
    outside_N1 = (s_NU * is_none_NU).sum(dim=1, keepdim=True)
    s_NB = torch.cat([s_NU * ~is_none_NU, outside_N1], dim=1)
    return temperature**2 * divergence_of(divergence, t_NB, s_NB)
