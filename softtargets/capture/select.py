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

    def cpu(self) -> Selected:
        """Return the targets on the host."""
        return Selected(**{field.name: getattr(self, field.name).cpu() for field in fields(self)})

    def check(self) -> None:
        """Check that the teacher gave numbers.

        Raises:
            TeacherError: a logit was NaN or infinity, or a position had none above -inf.
        """
        if not self.tail_mass_NG.isfinite().all():
            raise TeacherError(
                "logits",
                expected="numbers, and at least one above -inf at every position",
                found="NaN, infinity or nothing but -inf",
                next_step="Try --dtype float32; if it stays so, the teacher's weights are damaged.",
            )

    def __len__(self) -> int:
        return len(self.num_entries_N)

    def slice(self, start: int, stop: int) -> Selected:
        """Return positions [start, stop), without copying."""
        return Selected(
            **{field.name: getattr(self, field.name)[start:stop] for field in fields(self)}
        )

    def numpy(self, temperatures: tuple[float, ...]) -> SoftTargets:
        """Return the targets in numpy; they must be on the host."""
        names = {
            "ids_TK": self.ids_NK,
            "logits_TK": self.logits_NK,
            "num_entries_T": self.num_entries_N,
            "tail_mass_TG": self.tail_mass_NG,
            "label_logit_T": self.label_logit_N,
            "label_rank_T": self.label_rank_N,
        }
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in names.items()}
        return SoftTargets(temperatures=temperatures, **arrays)

    @classmethod
    def concatenate(cls, parts: list[Selected]) -> Selected:
        """Return the positions of all parts, in order; those of a single one without copying."""
        if len(parts) == 1:
            return parts[0]
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
        Logits that are no numbers make tail masses that are none: `Selected.check` finds them.
        """
        labels_N1 = labels_N[:, None]
        label_logit_N1 = logits_NV.gather(1, labels_N1)
        top_logits_NK, top_ids_NK = _top(logits_NV, self.k)
        label_rank_N = _rank(logits_NV, top_logits_NK, label_logit_N1)
        tail_mass_NG = _tail_mass(logits_NV, top_ids_NK, temperatures)
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


_BLOCK = 64
"""Logits whose maximum is looked at before they are; see `_top`."""


def _top(logits_NV: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k highest logits [N, K] and their ids, highest first.

    An entry of the top k lies in one of the k blocks with the highest maxima: every block above
    its own has an entry above it. So only k blocks are sorted, and the rest is read once.
    """
    num_rows, vocab_size = logits_NV.shape
    num_blocks = vocab_size // _BLOCK
    if num_blocks <= k:
        return logits_NV.topk(k, dim=1)
    in_blocks = num_blocks * _BLOCK
    # Left over at the end are less than a block, looked at one by one.
    blocks_NMB = logits_NV[:, :in_blocks].unflatten(1, (num_blocks, _BLOCK))
    best_NK = blocks_NMB.amax(dim=2).topk(k, dim=1, sorted=False).indices
    rows_N1 = torch.arange(num_rows, device=logits_NV.device)[:, None]
    candidates_NC = blocks_NMB[rows_N1, best_NK].flatten(1)
    offsets_B = torch.arange(_BLOCK, device=logits_NV.device)
    ids_NC = (best_NK[:, :, None] * _BLOCK + offsets_B).flatten(1)
    if in_blocks < vocab_size:
        candidates_NC = torch.cat([candidates_NC, logits_NV[:, in_blocks:]], dim=1)
        rest = torch.arange(in_blocks, vocab_size, device=logits_NV.device)
        ids_NC = torch.cat([ids_NC, rest.expand(num_rows, -1)], dim=1)
    top_logits_NK, places_NK = candidates_NC.topk(k, dim=1)
    return top_logits_NK, ids_NC.gather(1, places_NK)


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
    logits_NV: torch.Tensor, top_ids_NK: torch.Tensor, temperatures: tuple[float, ...]
) -> torch.Tensor:
    """Return the mass outside the top entries [N, G]; overwrites the logits.

    Probabilities at T / 2 are the squares of those at T, but for a factor that head and tail
    share, so one softmax serves both temperatures.
    """
    masses: dict[float, torch.Tensor] = {}
    pending = sorted(temperatures)
    while pending:
        temperature = pending.pop()
        # The last softmax may take the place of the logits; before it they are needed again.
        is_last = not [one for one in pending if one != temperature / 2]
        scaled_NV = logits_NV.div_(temperature) if is_last else logits_NV / temperature
        tail_NV = torch.softmax(scaled_NV, dim=1, out=scaled_NV)
        head_NK = tail_NV.gather(1, top_ids_NK)
        tail_NV.scatter_(1, top_ids_NK, 0.0)
        masses[temperature] = _share(tail_NV.sum(dim=1), head_NK.sum(dim=1))
        if temperature / 2 in pending:
            pending.remove(temperature / 2)
            squares_N = torch.linalg.vector_norm(tail_NV, dim=1).square_()
            masses[temperature / 2] = _share(squares_N, head_NK.square_().sum(dim=1))
    return torch.stack([masses[temperature] for temperature in temperatures], dim=1)


def _share(part: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    return part / (part + rest)


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
