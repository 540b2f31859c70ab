"""The bytes of entries: planes of ids, and half-bytes of steps.

With H = ceil(K / 2), byte h of a position holds rank h in its low half and rank H + h in its high
half: neighbours in rank are alike, so the bytes compress better than with ranks 2h and 2h + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from softtargets.targets.arrays import Bool, Int32, UInt8

ESCAPE = 15
"""The half-byte that stands for a difference found among the escapes."""


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
