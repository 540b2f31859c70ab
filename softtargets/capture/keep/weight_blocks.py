"""A vocabulary in blocks, of which few are looked at id by id.

Shapes: N positions of any windows, V vocabulary, M blocks of the vocabulary of B ids, P pairs of a
position and a block.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional

BLOCK = 64
"""Ids of a block."""
_PAIRS_AT_ONCE = 1 << 14
"""Blocks that are held at once: 8 MB in float64."""


class WeightBlocks:
    """Numbers [N, V] in blocks, the last filled up, without copying the others.

    Args:
        numbers_NV: weights or logits.
        fill: what fills up the last block.
    """

    def __init__(self, numbers_NV: torch.Tensor, fill: float = 0.0) -> None:
        if numbers_NV.shape[1] < BLOCK:
            numbers_NV = functional.pad(numbers_NV, (0, BLOCK - numbers_NV.shape[1]), value=fill)
        num_whole, num_rest = divmod(numbers_NV.shape[1], BLOCK)
        self._num_whole = num_whole
        self._whole_NMB = numbers_NV[:, : num_whole * BLOCK].unflatten(1, (num_whole, BLOCK))
        num_missing = BLOCK - num_rest if num_rest else 0
        rest_NR = numbers_NV[:, num_whole * BLOCK :]
        self._rest_NB = functional.pad(rest_NR, (0, num_missing), value=fill)

    def sums_NM(self) -> torch.Tensor:
        """Return the sum of each block, in the numbers' own format."""
        sums_NM: torch.Tensor = self._whole_NMB.sum(dim=2)
        if not self._rest_NB.shape[1]:
            return sums_NM
        return torch.cat([sums_NM, self._rest_NB.sum(dim=1, keepdim=True)], dim=1)

    def highest_NM(self) -> torch.Tensor:
        """Return the highest number of each block."""
        highest_NM: torch.Tensor = self._whole_NMB.amax(dim=2)
        if not self._rest_NB.shape[1]:
            return highest_NM
        return torch.cat([highest_NM, self._rest_NB.amax(dim=1, keepdim=True)], dim=1)

    def take(self, row_P: torch.Tensor, block_P: torch.Tensor) -> torch.Tensor:
        """Return blocks [P, B] of rows."""
        own_PB: torch.Tensor = self._whole_NMB[row_P, block_P.clamp(max=self._num_whole - 1)]
        if self._rest_NB.shape[1]:
            is_rest_P = block_P == self._num_whole
            own_PB = torch.where(is_rest_P[:, None], self._rest_NB[row_P], own_PB)
        return own_PB


def in_chunks(*pairs_P: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield tensors of pairs in parts: a block for each of many would take much memory."""
    yield from zip(*(one.split(_PAIRS_AT_ONCE) for one in pairs_P), strict=True)
