"""Draws from the teacher's softmax that do not depend on batches, devices' generators or workers.

Shapes: N positions of any windows, V vocabulary, D draws, M blocks of the vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from softtargets.targets import Float64

_BLOCK = 64
"""Weights that are summed before they are looked at one by one."""


def uniforms(window_id: str, start: int, num_targets: int, num_draws: int, seed: int) -> Float64:
    """Return numbers [T, D] in [0, 1) for the targets of a segment of a window.

    They are those of a counter-based generator (Philox, Salmon et al. 2011) keyed by the window's
    id, with the segment's start and the seed in its counter: a pure function of the arguments.
    """
    generator = np.random.Philox(key=int(window_id, 16), counter=[0, 0, start, seed])
    bits_TD = np.random.Generator(generator).integers(
        0, 1 << 32, size=(num_targets, num_draws), dtype=np.uint32
    )
    return bits_TD / 2.0**32


def draw(weights_NV: torch.Tensor, uniforms_ND: torch.Tensor) -> torch.Tensor:
    """Return ids [N, D] drawn in proportion to weights, by inverting their cumulative sum.

    The sum goes over blocks first and within one block then, and runs in float64 where the device
    has it: a running float32 sum of a whole vocabulary would shift the shares of what comes late.
    An id without weight is never drawn, unless no id has any.
    """
    num_rows, vocab_size = weights_NV.shape
    wide = torch.float32 if weights_NV.device.type == "mps" else torch.float64
    num_blocks = -(-vocab_size // _BLOCK)
    if num_blocks * _BLOCK > vocab_size:
        weights_NV = functional.pad(weights_NV, (0, num_blocks * _BLOCK - vocab_size))
    blocks_NMB = weights_NV.unflatten(1, (num_blocks, _BLOCK))
    ends_NM = blocks_NMB.sum(dim=2).cumsum(dim=1, dtype=wide)
    aims_ND = uniforms_ND.to(wide) * ends_NM[:, -1:]
    block_ND = torch.searchsorted(ends_NM, aims_ND, right=True).clamp(max=num_blocks - 1)
    before_ND = torch.where(block_ND > 0, ends_NM.gather(1, (block_ND - 1).clamp(min=0)), 0)
    rows_N1 = torch.arange(num_rows, device=weights_NV.device)[:, None]
    own_NDB = blocks_NMB[rows_N1, block_ND]
    passed_NDB = own_NDB.cumsum(dim=2, dtype=wide) <= (aims_ND - before_ND)[..., None]
    # Rounding may leave an aim just past a block's end: the last id with a weight is meant.
    places_B = torch.arange(_BLOCK, device=weights_NV.device)
    last_ND = torch.where(own_NDB > 0, places_B, 0).amax(dim=2)
    offset_ND = torch.minimum(passed_NDB.sum(dim=2), last_ND)
    return block_ND * _BLOCK + offset_ND
