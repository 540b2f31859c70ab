"""Threshold draws: likely ids exactly, of the others a systematic sample that stands for 1/N each.

Of a position with probabilities p and a number N, every id with p >= 1/N is kept with its logit.
With F the running sum of N p over the other ids, and one uniform u, id i is drawn when
floor(F_i + u) > floor(F_(i-1) + u). So it is drawn at most once, with probability N p_i, and stands
for 1/N: the mean over u is p_i (Madow 1949; Horvitz and Thompson 1952).

The cost is one softmax, one pass for the highest logit of each block of ids, and one for the sum of
each block. Nothing is sorted but what is kept.

Shapes: N positions of any windows, V vocabulary, K kept entries, D draws, M blocks of the
vocabulary of B ids, P pairs of a position and a block, E kept ids of all positions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from softtargets.capture.keep.kept_entries import KeptEntries, by_falling_logit
from softtargets.capture.keep.weight_blocks import BLOCK, WeightBlocks, in_chunks

NOT_DRAWN = -1
"""Stands where a position has fewer drawn ids than there may be."""
_ROUNDING = 2.0**-20
"""By how much of itself a probability may be off in float32. An id this near to 1/N is kept, so
that rounding does not decide on one with exactly that."""


class CertainEntries(NamedTuple):
    """The entries of a threshold selection."""

    entries: KeptEntries
    row_P: torch.Tensor
    block_P: torch.Tensor
    """The blocks that have one, with their rows."""


def likeliest_ids(logits: WeightBlocks, highest_NM: torch.Tensor) -> torch.Tensor:
    """Return the ids [N] of the highest logits: of equal ones the first, as argmax does."""
    block_N = highest_NM.argmax(dim=1)
    row_N = torch.arange(len(highest_NM), device=highest_NM.device)
    return block_N * BLOCK + logits.take(row_N, block_N).argmax(dim=1)


def certain_entries(
    logits: WeightBlocks,
    highest_NM: torch.Tensor,
    likeliest_N: torch.Tensor,
    share_N1: torch.Tensor,
    temperature: float,
    num: int,
) -> CertainEntries:
    """Return the ids that have at least 1/N of the probability, and always the likeliest one.

    Whether an id is one of them is decided by its logit, so no id outside has a logit above one of
    them.

    Args:
        logits: of any number format, filled up with -inf.
        highest_NM: the highest logit of each block.
        likeliest_N: from `likeliest_ids`.
        share_N1: the probabilities of these.
        temperature: of these.
        num: N.
    """
    row_N = torch.arange(len(likeliest_N), device=likeliest_N.device)
    top_block_N = likeliest_N // BLOCK
    top_logit_N1 = highest_NM.gather(1, top_block_N[:, None])
    # p_i / p_top = exp(-(z_top - z_i) / T) >= 1 / (N p_top)
    depth_N1 = temperature * ((share_N1 * num).log() + _ROUNDING)
    is_near_NM = top_logit_N1 - highest_NM <= depth_N1
    is_near_NM[row_N, top_block_N] = True
    found = []
    near_P = is_near_NM.nonzero(as_tuple=True)
    for row_P, block_P in in_chunks(*near_P):
        own_PB = logits.take(row_P, block_P)
        is_kept_PB = top_logit_N1[row_P] - own_PB <= depth_N1[row_P]
        is_kept_PB |= _ids(block_P) == likeliest_N[row_P, None]
        pair_E, offset_E = is_kept_PB.nonzero(as_tuple=True)
        found.append((row_P[pair_E], block_P[pair_E] * BLOCK + offset_E, own_PB[pair_E, offset_E]))
    row_E, id_E, logit_E = (torch.cat(parts) for parts in zip(*found, strict=True))
    ids_NK, logits_NK = by_falling_logit(*_padded(row_E, id_E, logit_E, len(likeliest_N)))
    entries = KeptEntries(
        top_logits_NK=logits_NK, ids_NK=ids_NK, logits_NK=logits_NK, is_ragged=True
    )
    return CertainEntries(entries, *near_P)


def draw_once(
    blocks: WeightBlocks,
    sums_NM: torch.Tensor,
    scale_N1: torch.Tensor,
    starts_N1: torch.Tensor,
    num: int,
) -> torch.Tensor:
    """Return ids [N, D] that are drawn by the definition above, rising; `NOT_DRAWN` past them.

    The running sum goes over blocks first, in float64 where the device has it, and within a block
    then. A block's sum is one of 64 float32 numbers, off by less than 2^-20 of itself, and what
    runs within the block is scaled to it. So every id's probability of being drawn is off by less
    than that part of itself, however many come before it: about what the float32 softmax is off by.

    Args:
        blocks: weights in proportion to probabilities; zero for ids that are kept.
        sums_NM: what they sum to in each block.
        scale_N1: what makes N p of them, in the format of the running sum.
        starts_N1: u, in [0, 1).
        num: N.
    """
    ends_NM = sums_NM.cumsum(dim=1, dtype=scale_N1.dtype) * scale_N1
    # F_(i-1) + u < j <= F_i + u
    aims_ND = torch.arange(1, num + 1, device=sums_NM.device) - starts_N1.to(scale_N1.dtype)
    row_P, place_P = (aims_ND <= ends_NM[:, -1:]).nonzero(as_tuple=True)
    block_P = torch.searchsorted(ends_NM, aims_ND)[row_P, place_P]
    before_P = ends_NM[row_P, (block_P - 1).clamp(min=0)].where(block_P > 0, 0)
    share_P = (aims_ND[row_P, place_P] - before_P) / (ends_NM[row_P, block_P] - before_P)
    drawn_ND = torch.full_like(aims_ND, NOT_DRAWN, dtype=torch.int64)
    if len(row_P):
        offset_P = torch.cat(
            [_offsets(blocks.take(r, b), s) for r, b, s in in_chunks(row_P, block_P, share_P)]
        )
        drawn_ND[row_P, place_P] = block_P * BLOCK + offset_P
    # Rounding may draw an id of almost 1/N twice.
    drawn_ND[:, 1:].masked_fill_(drawn_ND[:, 1:] == drawn_ND[:, :-1], NOT_DRAWN)
    return drawn_ND


def _offsets(own_PB: torch.Tensor, share_P: torch.Tensor) -> torch.Tensor:
    """Return where in its block the running sum reaches a share of all of it."""
    ends_PB = own_PB.cumsum(dim=1, dtype=share_P.dtype)
    return (ends_PB < share_P[:, None] * ends_PB[:, -1:]).sum(dim=1)


def _ids(block_P: torch.Tensor) -> torch.Tensor:
    """Return the ids [P, B] of blocks."""
    return block_P[:, None] * BLOCK + torch.arange(BLOCK, device=block_P.device)


def _padded(
    row_E: torch.Tensor, id_E: torch.Tensor, logit_E: torch.Tensor, num_rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and logits [N, K] of what stands row after row; -inf where there is none."""
    counts_N = row_E.bincount(minlength=num_rows)
    rank_E = torch.arange(len(row_E), device=row_E.device) - (counts_N.cumsum(0) - counts_N)[row_E]
    shape = num_rows, int(counts_N.max()) if num_rows else 0
    ids_NK = id_E.new_zeros(shape)
    logits_NK = logit_E.new_full(shape, -torch.inf)
    ids_NK[row_E, rank_E], logits_NK[row_E, rank_E] = id_E, logit_E
    return ids_NK, logits_NK
