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
        power: 2 if the squares of weights are meant, which are never made for all ids.
    """

    def __init__(self, numbers_NV: torch.Tensor, fill: float = 0.0, power: int = 1) -> None:
        self._power = power
        if numbers_NV.shape[1] < BLOCK:
            numbers_NV = functional.pad(numbers_NV, (0, BLOCK - numbers_NV.shape[1]), value=fill)
        num_whole, num_rest = divmod(numbers_NV.shape[1], BLOCK)
        self._num_whole = num_whole
        self._whole_NMB = numbers_NV[:, : num_whole * BLOCK].unflatten(1, (num_whole, BLOCK))
        self._rest_NB = numbers_NV[:, num_whole * BLOCK :]
        if num_rest:
            self._rest_NB = functional.pad(self._rest_NB, (0, BLOCK - num_rest), value=fill)

    def sums_NM(self) -> torch.Tensor:
        """Return the sum of each block, in the numbers' own format."""
        sums_NM = self._sum(self._whole_NMB)
        if not self._rest_NB.shape[1]:
            return sums_NM
        return torch.cat([sums_NM, self._sum(self._rest_NB)[:, None]], dim=1)

    def _sum(self, own_XB: torch.Tensor) -> torch.Tensor:
        if self._power == 1:
            sums_X: torch.Tensor = own_XB.sum(dim=-1)
        else:
            sums_X = torch.linalg.vector_norm(own_XB, dim=-1).square_()
        return sums_X

    def highest_NM(self) -> torch.Tensor:
        """Return the highest number of each block."""
        highest_NM: torch.Tensor = self._whole_NMB.amax(dim=2)
        if not self._rest_NB.shape[1]:
            return highest_NM
        return torch.cat([highest_NM, self._rest_NB.amax(dim=1, keepdim=True)], dim=1)

    def take(self, row_P: torch.Tensor, block_P: torch.Tensor) -> torch.Tensor:
        """Return blocks [P, B] of rows, in float32."""
        if self._rest_NB.shape[1]:
            own_PB = self._whole_NMB[row_P, block_P.clamp(max=self._num_whole - 1)]
            is_rest_P = block_P == self._num_whole
            own_PB = torch.where(is_rest_P[:, None], self._rest_NB[row_P], own_PB)
        else:
            # A tenth of the time that indexing by two tensors takes on a CPU.
            place_P = row_P * self._num_whole + block_P
            own_PB = self._whole_NMB.flatten(0, 1).index_select(0, place_P)
        wide_PB: torch.Tensor = own_PB.float()
        return wide_PB if self._power == 1 else wide_PB.square_()

    def count_above(self, bound_N1: torch.Tensor, highest_NM: torch.Tensor) -> torch.Tensor:
        """Return how many numbers [N] of a row are above its bound, int32.

        Only blocks with one are looked at.

        Args:
            bound_N1: one number for each row.
            highest_NM: the highest number of each block.
        """
        count_N = bound_N1.new_zeros(len(bound_N1))
        for row_P, block_P in in_chunks(*(highest_NM > bound_N1).nonzero(as_tuple=True)):
            # In float32 and in place: on a CPU four times as fast as making and counting booleans.
            count_P = self.take(row_P, block_P).gt_(bound_N1[row_P]).sum(dim=1)
            count_N.index_add_(0, row_P, count_P)
        return count_N.int()


def in_chunks(*pairs_P: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield tensors of pairs in parts: a block for each of many would take much memory."""
    yield from zip(*(one.split(_PAIRS_AT_ONCE) for one in pairs_P), strict=True)
