"""The bytes of entries: planes of ids, and half-bytes of steps.

With H = ceil(K / 2), byte h of a position holds rank h in its low half and rank H + h in its high
half: neighbours in rank are alike, so the bytes compress better than with ranks 2h and 2h + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np

from softtargets.errors import InputError
from softtargets.targets.arrays import Bool, Float64, Int32, UInt8
from softtargets.targets.blocks import blocks_of_rows

ESCAPE = 15
"""The half-byte that stands for a difference found among the escapes."""
_BLOCK_BYTES = 1 << 16


def kept_entries(num_entries_T: Int32, num_columns: int) -> Bool:
    """Return which entries [T, K] are kept."""
    return np.arange(num_columns, dtype=np.int32) < num_entries_T[:, None]


def num_id_planes(vocab_size: int) -> int:
    """Return how many bytes an id below `vocab_size` needs."""
    return max(1, ((vocab_size - 1).bit_length() + 7) // 8)


@cache
def plane_names(vocab_size: int) -> tuple[str, ...]:
    """Return the names of the id planes' columns, lowest byte first."""
    return tuple(f"id_plane_{index}" for index in range(num_id_planes(vocab_size)))


def split_ids(ids_TK: Int32, num_planes: int) -> tuple[UInt8, ...]:
    """Split ids [T, K] into byte planes [T, K], lowest byte first."""
    bytes_TK4 = np.ascontiguousarray(ids_TK, dtype="<u4").view(np.uint8).reshape(*ids_TK.shape, 4)
    return tuple(np.ascontiguousarray(bytes_TK4[..., plane]) for plane in range(num_planes))


def join_ids(id_planes: Sequence[UInt8]) -> Int32:
    """Join byte planes [T, K], lowest byte first, into ids [T, K]."""
    ids_TK = id_planes[0].astype(np.int32)
    for index, plane_TK in enumerate(id_planes[1:], start=1):
        ids_TK |= plane_TK.astype(np.int32) << (8 * index)
    return ids_TK


def join_halves(steps_TK: UInt8) -> UInt8:
    """Join half-bytes [T, K] into bytes [T, H]."""
    num_bytes = (steps_TK.shape[1] + 1) // 2
    steps_TH = steps_TK[:, :num_bytes].copy()
    steps_TH[:, : steps_TK.shape[1] - num_bytes] |= steps_TK[:, num_bytes:] << 4
    return steps_TH


def split_halves(steps_TH: UInt8, num_entries: int) -> UInt8:
    """Split bytes [T, H] into half-bytes [T, K]."""
    return np.concatenate([steps_TH & 15, steps_TH >> 4], axis=1)[:, :num_entries]


def escape_marks(steps_TH: UInt8, num_entries: int) -> list[Bool]:
    """Return where the low half-bytes [T, H] are escapes, and the high ones if any of them is."""
    marks = [(steps_TH | 0xF0) == 0xFF]
    if steps_TH.max(initial=0) >= ESCAPE << 4:
        is_high_TH = steps_TH >= ESCAPE << 4
        if num_entries % 2:
            is_high_TH[:, -1] = False  # That half is of no entry.
        marks.append(is_high_TH)
    return marks


def escape_counts(steps_TH: UInt8, bounds: Sequence[int], num_entries: int) -> list[int]:
    """Return how many steps of each row are escapes."""
    counts: list[int] = []
    for first, last in blocks_of_rows(bounds, _BLOCK_BYTES // max(1, steps_TH.shape[1])):
        start = bounds[first]
        rows = [slice(a - start, b - start) for a, b in pairwise(bounds[first : last + 1])]
        low, *high = escape_marks(steps_TH[start : bounds[last]], num_entries)
        own = [np.count_nonzero(low[row]) for row in rows]
        for mark in high:
            own = [num + np.count_nonzero(mark[row]) for num, row in zip(own, rows, strict=True)]
        counts += map(int, own)
    return counts


def check_falling(distance_TK: Float64, kept_TK: Bool) -> None:
    """Check distances below the top logit.

    Raises:
        InputError: the logits rise along the rank.
    """
    rises_TK = (np.diff(distance_TK, axis=1) < 0) & kept_TK[:, 1:]
    if rises_TK.any():
        row, rank = np.argwhere(rises_TK)[0]
        raise InputError(
            f"position {row}",
            expected="logits that fall or stay along the rank",
            found=f"a rise at rank {rank + 1}",
            next_step="Sort the entries by falling logit before packing.",
        )


def step_differences(distance_TK: Float64, kept_TK: Bool, step: float) -> Float64:
    """Return by how many steps [T, K] each kept entry is below the one before it.

    Raises:
        InputError: neighbours lie too far apart to be counted in steps.
    """
    difference_TK = np.diff(np.rint(distance_TK / step), axis=1, prepend=0.0)
    difference_TK[~kept_TK] = 0.0
    limit = np.iinfo(np.int32).max
    if difference_TK.size and difference_TK.max() > limit:
        raise InputError(
            "logits",
            expected=f"neighbouring ranks within {limit * step:.3g} nats of each other",
            found=f"a gap of {difference_TK.max() * step:.3g} nats",
            next_step="Keep the logits lossless (values float32).",
        )
    return difference_TK


def quantise(distance_TK: Float64, kept_TK: Bool, step: float) -> tuple[UInt8, Int32]:
    """Return step differences [T, H] and escapes [E] of distances below the top logit.

    Raises:
        InputError: neighbours lie too far apart to be counted in steps.
    """
    difference_TK = step_differences(distance_TK, kept_TK, step)
    escaped_TK = difference_TK >= ESCAPE
    steps_TK = np.where(escaped_TK, ESCAPE, difference_TK).astype(np.uint8)
    return join_halves(steps_TK), difference_TK[escaped_TK].astype(np.int32)
