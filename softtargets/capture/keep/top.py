"""The highest logits of a position, equal ones by rising id, on every device.

A device's own sort leaves the order of equal values open, and so which of them are kept. Equal
logits are common: half of the positions of a bfloat16 teacher have them at the edge of the top 64.

Shapes: N positions, V vocabulary, K kept entries, M blocks of the vocabulary, C candidates.
"""

from __future__ import annotations

import torch

_BLOCK = 64
"""Logits whose maximum is looked at before they are."""


def top(logits_NV: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k highest float32 logits [N, K] and their ids, by falling logit, then rising id.

    An entry of the top k lies in one of the first k blocks by falling maximum, then rising id:
    every block before its own has an entry that comes before it. So only k blocks are sorted, and
    the rest is read once.
    """
    num_blocks = logits_NV.shape[1] // _BLOCK
    if k == 0:
        return logits_NV[:, :0], logits_NV[:, :0].long()
    if num_blocks <= k:
        ids_NK = _first(logits_NV, k)
        return logits_NV.gather(1, ids_NK), ids_NK
    in_blocks = num_blocks * _BLOCK
    blocks_NMB = logits_NV[:, :in_blocks].unflatten(1, (num_blocks, _BLOCK))
    # By rising id, so that candidates are too.
    best_NK = _first(blocks_NMB.amax(dim=2), k).sort(dim=1).values
    rows_N1 = torch.arange(len(logits_NV), device=logits_NV.device)[:, None]
    # Left over at the end are less than a block, which all are candidates.
    candidates_NC = torch.cat(
        [blocks_NMB[rows_N1, best_NK].flatten(1), logits_NV[:, in_blocks:]], dim=1
    )
    places_NK = _first(candidates_NC, k)
    blocks_NK = best_NK.gather(1, (places_NK // _BLOCK).clamp(max=k - 1))
    ids_NK = torch.where(
        places_NK < k * _BLOCK,
        blocks_NK * _BLOCK + places_NK % _BLOCK,
        in_blocks + places_NK - k * _BLOCK,
    )
    return candidates_NC.gather(1, places_NK), ids_NK


def _first(values_NC: torch.Tensor, k: int) -> torch.Tensor:
    """Return the places [N, K] of the k highest float32 values, equal ones by rising place.

    What is sorted are integers that are all different: the bits of a value, which have the order of
    the values once those below zero are turned around, above the number of places that follow.
    """
    num_values = values_NC.shape[1]
    # Adding zero makes -0 and 0 the same bits.
    bits_NC = (values_NC + 0.0).view(torch.int32)
    bits_NC ^= (bits_NC >> 31) & 0x7FFFFFFF
    keys_NC = bits_NC.long() << 32
    keys_NC += torch.arange(num_values - 1, -1, -1, device=values_NC.device)
    return num_values - 1 - (keys_NC.topk(k, dim=1).values & 0xFFFFFFFF)
