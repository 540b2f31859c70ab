"""Logits to soft targets. Pure torch, on whatever device the logits are.

Shapes: N positions of any windows, V vocabulary, K kept entries, G temperatures.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from softtargets.errors import InputError, TeacherError
from softtargets.targets import SoftTargets


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """The targets of N positions as tensors."""

    ids_NK: torch.Tensor
    logits_NK: torch.Tensor
    num_entries_N: torch.Tensor
    tail_mass_NG: torch.Tensor
    label_logit_N: torch.Tensor
    label_rank_N: torch.Tensor

    def rows(self, start: int, stop: int, temperatures: tuple[float, ...]) -> SoftTargets:
        """Return positions [start, stop) in numpy, on the host."""
        names = {
            "ids_TK": self.ids_NK,
            "logits_TK": self.logits_NK,
            "num_entries_T": self.num_entries_N,
            "tail_mass_TG": self.tail_mass_NG,
            "label_logit_T": self.label_logit_N,
            "label_rank_T": self.label_rank_N,
        }
        arrays: dict[str, Any] = {
            name: tensor[start:stop].cpu().numpy() for name, tensor in names.items()
        }
        return SoftTargets(temperatures=temperatures, **arrays)

    @classmethod
    def concatenate(cls, parts: list[Selected]) -> Selected:
        """Return the positions of all parts, in order."""
        return cls(
            **{
                field.name: torch.cat([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """Keep the `k` highest logits of every position, and the mass of the rest."""

    k: int = 64

    def check(self, vocab_size: int) -> None:
        """Check that the selection fits a vocabulary.

        Raises:
            InputError: k is not between 1 and the vocabulary size.
        """
        if not 1 <= self.k <= vocab_size:
            raise InputError(
                "--top-k",
                expected=f"a number from 1 to the teacher's vocabulary size, {vocab_size}",
                found=str(self.k),
                next_step="64 serves most students.",
            )

    def select(
        self, logits_NV: torch.Tensor, labels_N: torch.Tensor, temperatures: tuple[float, ...]
    ) -> Selected:
        """Select the targets of N positions. `logits_NV` is float32 and is overwritten.

        The tail's mass is summed by itself and not as one minus the head's, so that it is right to
        float32 precision however small it is: tail = S_tail / (S_head + S_tail), S = sum exp(z/T).

        Equal logits are ordered by id, so that the result does not depend on the device's sort.

        Raises:
            TeacherError: a logit is NaN or infinity.
        """
        labels_N1 = labels_N[:, None]
        label_logit_N1 = logits_NV.gather(1, labels_N1)
        top_logits_NK, top_ids_NK = logits_NV.topk(self.k, dim=1)
        label_rank_N = _rank(logits_NV, top_logits_NK, label_logit_N1)
        tail_mass_NG = _tail_mass(logits_NV, top_ids_NK, top_logits_NK, temperatures)
        if not tail_mass_NG.isfinite().all():
            raise TeacherError(
                "logits",
                expected="numbers, and at least one above -inf at every position",
                found="NaN, infinity or nothing but -inf",
                next_step="Try --dtype float32; if it stays so, the teacher's weights are damaged.",
            )
        ids_NK, by_id = top_ids_NK.sort(dim=1)
        logits_NK, by_logit = top_logits_NK.gather(1, by_id).sort(
            dim=1, descending=True, stable=True
        )
        return Selected(
            ids_NK=ids_NK.gather(1, by_logit).int(),
            logits_NK=logits_NK,
            num_entries_N=(logits_NK > -torch.inf).sum(dim=1, dtype=torch.int32),
            tail_mass_NG=tail_mass_NG,
            label_logit_N=label_logit_N1[:, 0],
            label_rank_N=label_rank_N,
        )


def _rank(
    logits_NV: torch.Tensor, top_logits_NK: torch.Tensor, label_logit_N1: torch.Tensor
) -> torch.Tensor:
    """Return how many logits are above the label's; only a label outside the top needs them all."""
    rank_N = (top_logits_NK > label_logit_N1).sum(dim=1, dtype=torch.int32)
    outside = (rank_N == top_logits_NK.shape[1]).nonzero()[:, 0]
    above_OV = logits_NV[outside] > label_logit_N1[outside]
    rank_N[outside] = above_OV.sum(dim=1, dtype=torch.int32)
    return rank_N


def _tail_mass(
    logits_NV: torch.Tensor,
    top_ids_NK: torch.Tensor,
    top_logits_NK: torch.Tensor,
    temperatures: tuple[float, ...],
) -> torch.Tensor:
    """Return the mass outside the top entries [N, G]; overwrites the logits.

    exp(z / T) is taken relative to the position's top logit, so it cannot overflow, and since the
    head's sum is then at least 1, what underflows in the tail is below any float32 of the whole.
    """
    top_N1 = top_logits_NK[:, :1]
    tail_NV = logits_NV.scatter_(1, top_ids_NK, -torch.inf).sub_(top_N1)
    head_NK = top_logits_NK - top_N1
    scaled_NV = torch.empty_like(tail_NV)
    masses = []
    for temperature in temperatures:
        head_N = (head_NK / temperature).exp_().sum(dim=1)
        tail_N = torch.div(tail_NV, temperature, out=scaled_NV).exp_().sum(dim=1)
        masses.append(tail_N / (head_N + tail_N))
    return torch.stack(masses, dim=1)


def check_temperatures(temperatures: tuple[float, ...]) -> tuple[float, ...]:
    """Return the grid in rising order, without doubles.

    Raises:
        InputError: it is empty, or one of them is not a positive finite number.
    """
    if not temperatures or not all(0 < one < np.inf for one in temperatures):
        raise InputError(
            "--temperature",
            expected="one or more positive numbers",
            found=", ".join(f"{one:g}" for one in temperatures) or "none",
            next_step="1 and 2 serve most students.",
        )
    return tuple(sorted({float(one) for one in temperatures}))
