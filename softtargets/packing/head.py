"""The head in its compact form: byte planes of ids, uniform steps of logits.

The kept logits are stored as the distance below the position's top logit, rounded to steps of
`step` nats and differenced along the rank. Rounding comes before differencing, so an entry is
never further than step / 2 from its logit, whatever its rank. A difference takes half a byte; one
of 15 steps or more is written as 15 and its true value goes to the escapes, in row-major order.
With H = ceil(K / 2), byte h of a position holds rank h in its low half and rank H + h in its high
half: neighbours in rank are alike, so the bytes compress better than with ranks 2h and 2h + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softtargets.errors import CorruptionError, InputError
from softtargets.kinds import HeadSchema
from softtargets.targets import Bool, Float32, Float64, Int32, UInt8

ESCAPE = 15
"""The half-byte that stands for a difference found among the escapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedHead:
    """The kept entries of T positions as they are stored; legend in `softtargets.targets`."""

    id_planes: tuple[UInt8, ...]
    """P byte planes [T, K] of the kept ids, lowest byte first; 0 past a position's count."""
    num_entries_T: Int32
    """How many of the K entries are kept."""
    steps_TH: UInt8 | None
    """Step differences along the rank, two to a byte; None when `logits_TK` holds the values."""
    escapes_E: Int32
    """True differences of the entries written as 15, in row-major order."""
    logits_TK: Float32 | None
    """The logits themselves in lossless mode, 0 past a count; None when `steps_TH` holds them."""
    step: float | None
    """Width of a step in nats; None in lossless mode."""

    def unpack(self, top_logit_T: Float32) -> tuple[Int32, Float32]:
        """Return ids [T, K] and logits [T, K], -inf past a position's count.

        Raises:
            CorruptionError: there are more or fewer escapes than steps ask for.
        """
        self.check_escapes()
        ids_TK = join_ids(self.id_planes)
        if self.logits_TK is not None:
            logits_TK = self.logits_TK.copy()
        else:
            assert self.steps_TH is not None
            assert self.step is not None
            difference_TK = split_halves(self.steps_TH, ids_TK.shape[1]).astype(np.int64)
            difference_TK[difference_TK == ESCAPE] = self.escapes_E
            distance_TK = np.cumsum(difference_TK, axis=1) * self.step
            logits_TK = (top_logit_T[:, None] - distance_TK).astype(np.float32)
        logits_TK[~kept_entries(self.num_entries_T, logits_TK.shape[1])] = -np.inf
        return ids_TK, logits_TK

    def check_escapes(self) -> None:
        """Check that there is a difference for each step that says so.

        Raises:
            CorruptionError: there is not.
        """
        wanted = 0
        if self.steps_TH is not None:
            marks = escape_marks(self.steps_TH, self.id_planes[0].shape[1])
            wanted = sum([int(np.count_nonzero(mark)) for mark in marks])
        if wanted != len(self.escapes_E):
            raise CorruptionError(
                "escapes",
                expected=f"a difference for each of {wanted} steps that are {ESCAPE}",
                found=f"{len(self.escapes_E)}",
                next_step="Restore the store from a copy, or build it again.",
            )


def pack_head(
    ids_TK: Int32, logits_TK: Float32, num_entries_T: Int32, schema: HeadSchema, vocab_size: int
) -> PackedHead:
    """Return the kept entries in compact form.

    Raises:
        InputError: the logits rise along the rank, or lie too far apart to be counted in steps.
    """
    kept_TK = kept_entries(num_entries_T, ids_TK.shape[1])
    distance_TK = np.zeros(ids_TK.shape, np.float64)
    np.subtract(logits_TK[:, :1].astype(np.float64), logits_TK, out=distance_TK, where=kept_TK)
    _check_falling(distance_TK, kept_TK)
    steps_TH, escapes_E, lossless_TK = None, np.empty(0, np.int32), None
    if schema.step is not None:
        steps_TH, escapes_E = _quantise(distance_TK, kept_TK, schema.step)
    else:
        lossless_TK = np.where(kept_TK, logits_TK, np.float32(0))
    return PackedHead(
        id_planes=split_ids(np.where(kept_TK, ids_TK, 0), num_id_planes(vocab_size)),
        num_entries_T=num_entries_T,
        steps_TH=steps_TH,
        escapes_E=escapes_E,
        logits_TK=lossless_TK,
        step=schema.step,
    )


def kept_entries(num_entries_T: Int32, num_columns: int) -> Bool:
    """Return which entries [T, K] are kept."""
    return np.arange(num_columns, dtype=np.int32) < num_entries_T[:, None]


def num_id_planes(vocab_size: int) -> int:
    """Return how many bytes an id below `vocab_size` needs."""
    return max(1, ((vocab_size - 1).bit_length() + 7) // 8)


def split_ids(ids_TK: Int32, num_planes: int) -> tuple[UInt8, ...]:
    """Split ids [T, K] into byte planes [T, K], lowest byte first."""
    bytes_TK4 = np.ascontiguousarray(ids_TK, dtype="<u4").view(np.uint8).reshape(*ids_TK.shape, 4)
    return tuple(np.ascontiguousarray(bytes_TK4[..., plane]) for plane in range(num_planes))


def join_ids(id_planes: tuple[UInt8, ...]) -> Int32:
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


def _check_falling(distance_TK: Float64, kept_TK: Bool) -> None:
    rises_TK = (np.diff(distance_TK, axis=1) < 0) & kept_TK[:, 1:]
    if rises_TK.any():
        row, rank = np.argwhere(rises_TK)[0]
        raise InputError(
            f"position {row}",
            expected="logits that fall or stay along the rank",
            found=f"a rise at rank {rank + 1}",
            next_step="Sort the entries by falling logit before packing.",
        )


def _quantise(distance_TK: Float64, kept_TK: Bool, step: float) -> tuple[UInt8, Int32]:
    """Return step differences [T, H] and escapes [E] of distances below the top logit."""
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
    escaped_TK = difference_TK >= ESCAPE
    steps_TK = np.where(escaped_TK, ESCAPE, difference_TK).astype(np.uint8)
    return join_halves(steps_TK), difference_TK[escaped_TK].astype(np.int32)
