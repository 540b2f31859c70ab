"""Draws from the teacher's softmax that do not depend on batches, devices' generators or workers.

Shapes: N positions of any windows, V vocabulary, D draws, M blocks of the vocabulary of B ids, P
draws of any positions.
"""

from __future__ import annotations

import numpy as np
import torch

from softtargets.capture.keep.weight_blocks import BLOCK, WeightBlocks, in_chunks
from softtargets.targets import Float64


def uniforms(window_id: str, start: int, num_targets: int, num_draws: int, seed: int) -> Float64:
    """Return numbers [T, D] in [0, 1) for the targets of a segment of a window.

    They are those of a counter-based generator (Philox, Salmon et al. 2011) keyed by the window's
    id, with the segment's start and the seed in its counter: a pure function of the arguments.
    """
    bits_TD = _generator(window_id, start, seed).integers(
        0, 1 << 32, size=(num_targets, num_draws), dtype=np.uint32
    )
    return bits_TD / 2.0**32


def starts(window_id: str, start: int, num_targets: int, seed: int) -> Float64:
    """Return one number [T] in [0, 1) for each target of a segment of a window.

    They are of the generator of `uniforms`, in steps of 2^-53: a single one decides on all ids of a
    position, the least likely ones included.
    """
    return _generator(window_id, start, seed).random(num_targets)


def _generator(window_id: str, start: int, seed: int) -> np.random.Generator:
    philox = np.random.Philox(key=int(window_id, 16), counter=[0, 0, start, seed])
    return np.random.Generator(philox)


def spread(starts_N1: torch.Tensor, num_draws: int) -> torch.Tensor:
    """Return evenly spread numbers [N, D] in [0, 1): (j + u) / D.

    What is drawn by them is a systematic sample. An id with probability p is drawn floor(D p) or
    ceil(D p) times, and D p times in the mean (Madow 1949).
    """
    places_D = torch.arange(num_draws, device=starts_N1.device)
    return (starts_N1 + places_D) / num_draws


def draw(weights_NV: torch.Tensor, uniforms_ND: torch.Tensor) -> torch.Tensor:
    """Return ids [N, D] drawn in proportion to weights, by inverting their cumulative sum.

    The sum goes over blocks first and within one block then, and runs in float64 where the device
    has it: a running float32 sum of a whole vocabulary would shift the shares of what comes late.
    What runs within a block is scaled to the block's float32 sum. Else the last ids of a block
    would have what that sum is off by, which is much for a rare id beside a likely one.
    An id without weight is never drawn, unless no id has any.
    """
    wide = wide_dtype(weights_NV.device)
    blocks = WeightBlocks(weights_NV)
    ends_NM = blocks.sums_NM().cumsum(dim=1, dtype=wide)
    aims_ND = uniforms_ND.to(wide) * ends_NM[:, -1:]
    block_ND = torch.searchsorted(ends_NM, aims_ND, right=True).clamp(max=ends_NM.shape[1] - 1)
    before_ND = torch.where(block_ND > 0, ends_NM.gather(1, (block_ND - 1).clamp(min=0)), 0)
    row_N1 = torch.arange(len(weights_NV), device=weights_NV.device)[:, None]
    row_ND = row_N1.expand(block_ND.shape)
    share_ND = (aims_ND - before_ND) / (ends_NM.gather(1, block_ND) - before_ND)
    pairs = (row_ND.flatten(), block_ND.flatten(), share_ND.flatten())
    offset_ND = torch.cat([_offsets(blocks.take(r, b), s) for r, b, s in in_chunks(*pairs)])
    return block_ND * BLOCK + offset_ND.view(block_ND.shape)


def wide_dtype(device: torch.device) -> torch.dtype:
    """Return the format of running sums: float64, which MPS has not."""
    return torch.float32 if device.type == "mps" else torch.float64


def _offsets(own_PB: torch.Tensor, share_P: torch.Tensor) -> torch.Tensor:
    """Return the place of a share of a block's sum in its cumulative sum."""
    ends_PB = own_PB.cumsum(dim=1, dtype=share_P.dtype)
    passed_PB = ends_PB <= share_P[:, None] * ends_PB[:, -1:]
    # Rounding may make a share of 1: the last id with a weight is meant.
    places_B = torch.arange(BLOCK, device=own_PB.device)
    last_P = torch.where(own_PB > 0, places_B, 0).amax(dim=1)
    return torch.minimum(passed_PB.sum(dim=1), last_P)
