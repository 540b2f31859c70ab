"""Logits to entries and threshold draws, with every sum over the vocabulary from sums of blocks.

Beside its softmaxes a selection passes over the vocabulary once for the highest logit of each
block, and once for the sums of blocks at each temperature of the grid. All passes are over one
tensor, which stays near a CPU's caches; single logits come from those that the teacher gave.
Entries are taken out of their blocks, whose sums are made anew: so a tail's mass is that of what is
in it, however small.

Shapes: N positions of any windows, V vocabulary, K kept entries, G temperatures, D draws, M blocks
of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from softtargets.capture.keep.sampling import wide_dtype
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Draws
from softtargets.capture.keep.softmaxes import softmaxes_of
from softtargets.capture.keep.threshold import (
    CertainEntries,
    certain_entries,
    draw_once,
    likeliest_ids,
)
from softtargets.capture.keep.weight_blocks import WeightBlocks, in_chunks


def select_by_threshold(
    logits_NV: torch.Tensor,
    labels_N1: torch.Tensor | None,
    draws: Draws,
    temperatures: tuple[float, ...],
    starts_N1: torch.Tensor,
    scratch_NV: torch.Tensor,
) -> Selected:
    """Select the targets of N positions.

    Args:
        logits_NV: of any number format.
        labels_N1: the ids that follow; None if their logits and ranks are not wanted.
        draws: how many, and at which temperature.
        temperatures: the grid.
        starts_N1: a number in [0, 1) for each position, float64.
        scratch_NV: float32 memory to compute in.
    """
    logits = WeightBlocks(logits_NV, fill=-torch.inf)
    highest_NM = WeightBlocks(scratch_NV.copy_(logits_NV), fill=-torch.inf).highest_NM()
    certain: CertainEntries | None = None
    tail_mass: dict[float, torch.Tensor] = {}
    others: dict[str, Any] = {}
    if labels_N1 is not None:
        others = _label(logits_NV, labels_N1, logits, highest_NM)
    for served in softmaxes_of(temperatures, first=draws.temperature):
        if certain is not None:
            scratch_NV.copy_(logits_NV)
        weights_NV = _softmax(scratch_NV, served.temperature)
        powers = served.powers()
        sums = {one: WeightBlocks(weights_NV, power=powers[one]).sums_NM() for one in powers}
        if certain is None:
            power = powers[draws.temperature]
            certain = _certain(
                logits, highest_NM, weights_NV, power, sums[draws.temperature], draws
            )
        own_NK = certain.entries.take(weights_NV)
        for temperature, power in powers.items():
            tail = WeightBlocks(weights_NV, power=power)
            sums_NM = _without_entries(sums[temperature], tail, certain)
            sum_N1 = sums_NM.sum(dim=1, keepdim=True)
            total_N1 = sum_N1 + (own_NK**power).sum(dim=1, keepdim=True)
            tail_mass[temperature] = (sum_N1 / total_N1)[:, 0]
            if temperature == draws.temperature:
                scale_N1 = draws.num / total_N1.to(wide_dtype(total_N1.device))
                ids_ND = draw_once(tail, sums_NM, scale_N1, starts_N1, draws.num)
                others |= _with_logits(logits_NV, ids_ND)
    assert certain is not None
    return Selected(
        **_entries(certain, min(draws.num, logits_NV.shape[1])),
        tail_mass_NG=torch.stack([tail_mass[one] for one in temperatures], dim=1),
        **others,
    )


def _softmax(logits_NV: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the softmax in place of the logits."""
    if temperature != 1:
        logits_NV.div_(temperature)
    return torch.softmax(logits_NV, dim=1, out=logits_NV)


def _certain(
    logits: WeightBlocks,
    highest_NM: torch.Tensor,
    weights_NV: torch.Tensor,
    power: int,
    sums_NM: torch.Tensor,
    draws: Draws,
) -> CertainEntries:
    """Return the entries, of weights and sums that serve the draws' temperature."""
    likeliest_N = likeliest_ids(logits, highest_NM)
    own_N1 = weights_NV.gather(1, likeliest_N[:, None]) ** power
    share_N1 = own_N1 / sums_NM.sum(dim=1, keepdim=True)
    return certain_entries(logits, highest_NM, likeliest_N, share_N1, draws.temperature, draws.num)


def _without_entries(
    sums_NM: torch.Tensor, tail: WeightBlocks, certain: CertainEntries
) -> torch.Tensor:
    """Return sums of blocks, those that have entries made anew of what else they have."""
    for row_P, block_P in in_chunks(certain.row_P, certain.block_P):
        sums_NM[row_P, block_P] = tail.take(row_P, block_P).sum(dim=1)
    return sums_NM


def _with_logits(logits_NV: torch.Tensor, ids_ND: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return draws with their logits, -inf where there is none."""
    logits_ND = (
        logits_NV.gather(1, ids_ND.clamp(min=0)).float().masked_fill_(ids_ND < 0, -torch.inf)
    )
    return {"drawn_ids_ND": ids_ND.int(), "drawn_logits_ND": logits_ND}


def _entries(certain: CertainEntries, most: int) -> dict[str, Any]:
    """Return entries with as many places as there are at most, as chunks have different numbers."""
    missing = 0, most - certain.entries.ids_NK.shape[1]
    logits_NK = functional.pad(certain.entries.logits_NK, missing, value=-torch.inf)
    return {
        "ids_NK": functional.pad(certain.entries.ids_NK, missing).int(),
        "logits_NK": logits_NK,
        "num_entries_N": (logits_NK > -torch.inf).sum(dim=1, dtype=torch.int32),
    }


def _label(
    logits_NV: torch.Tensor,
    labels_N1: torch.Tensor,
    logits: WeightBlocks,
    highest_NM: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Return the label's logit, and how many are above it."""
    logit_N1 = logits_NV.gather(1, labels_N1).float()
    rank_N = logits.count_above(logit_N1, highest_NM)
    return {"label_logit_N": logit_N1[:, 0], "label_rank_N": rank_N}
