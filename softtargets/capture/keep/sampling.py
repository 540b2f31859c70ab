"""Draws from the teacher's softmax that do not depend on batches, devices' generators or workers.

Shapes: N positions of any windows, V vocabulary, D draws, M blocks of the vocabulary of B ids, P
draws of any positions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from softtargets.targets import Float64

_BLOCK = 64
"""Weights that are summed before they are looked at one by one."""
_DRAWS_AT_ONCE = 1 << 14
"""Draws whose blocks are held at once: 8 MB in float64."""


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
    if vocab_size < _BLOCK:
        weights_NV = functional.pad(weights_NV, (0, _BLOCK - vocab_size))
    blocks = _Blocks(weights_NV)
    ends_NM = blocks.sums_NM.cumsum(dim=1, dtype=wide)
    aims_ND = uniforms_ND.to(wide) * ends_NM[:, -1:]
    block_ND = torch.searchsorted(ends_NM, aims_ND, right=True).clamp(max=ends_NM.shape[1] - 1)
    before_ND = torch.where(block_ND > 0, ends_NM.gather(1, (block_ND - 1).clamp(min=0)), 0)
    rows_ND = torch.arange(num_rows, device=weights_NV.device)[:, None].expand(block_ND.shape)
    pairs = (rows_ND.flatten(), block_ND.flatten(), (aims_ND - before_ND).flatten())
    # A block for every draw: of many draws they would take more memory than the weights.
    chunks = zip(*(one.split(_DRAWS_AT_ONCE) for one in pairs), strict=True)
    offset_ND = torch.cat([_offsets(blocks.take(r, b), a) for r, b, a in chunks])
    return block_ND * _BLOCK + offset_ND.view(block_ND.shape)


class _Blocks:
    """Weights in blocks, the last filled up with zeros, without copying the others."""

    def __init__(self, weights_NV: torch.Tensor) -> None:
        num_whole, num_rest = divmod(weights_NV.shape[1], _BLOCK)
        self._num_whole = num_whole
        self._whole_NMB = weights_NV[:, : num_whole * _BLOCK].unflatten(1, (num_whole, _BLOCK))
        self._rest_NB = functional.pad(
            weights_NV[:, num_whole * _BLOCK :], (0, _BLOCK - num_rest if num_rest else 0)
        )
        sums_NM = self._whole_NMB.sum(dim=2)
        rest_N1 = self._rest_NB.sum(dim=1, keepdim=True)
        self.sums_NM = torch.cat([sums_NM, rest_N1], dim=1) if num_rest else sums_NM

    def take(self, row_P: torch.Tensor, block_P: torch.Tensor) -> torch.Tensor:
        """Return blocks [P, B] of rows."""
        own_PB: torch.Tensor = self._whole_NMB[row_P, block_P.clamp(max=self._num_whole - 1)]
        if self._rest_NB.shape[1]:
            is_rest_P = block_P == self._num_whole
            own_PB = torch.where(is_rest_P[:, None], self._rest_NB[row_P], own_PB)
        return own_PB


def _offsets(own_PB: torch.Tensor, aims_P: torch.Tensor) -> torch.Tensor:
    """Return the place of an aim in the cumulative sum of its own block."""
    passed_PB = own_PB.cumsum(dim=1, dtype=aims_P.dtype) <= aims_P[:, None]
    # Rounding may leave an aim just past a block's end: the last id with a weight is meant.
    places_B = torch.arange(_BLOCK, device=own_PB.device)
    last_P = torch.where(own_PB > 0, places_B, 0).amax(dim=1)
    return torch.minimum(passed_PB.sum(dim=1), last_P)
