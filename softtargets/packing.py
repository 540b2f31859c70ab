"""Soft targets in their compact form: byte planes of ids, uniform steps of logits.

The kept logits are stored as the distance below the position's top logit, rounded to steps of
`step` nats and differenced along the rank. Rounding comes before differencing, so an entry is
never further than step / 2 from its logit, whatever its rank. A difference takes half a byte; one
of 15 steps or more is written as 15 and its true value goes to the escapes, in row-major order.
With H = ceil(K / 2), byte h of a position holds rank h in its low half and rank H + h in its high
half: neighbours in rank are alike, so the bytes compress better than with ranks 2h and 2h + 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from softtargets.errors import InputError
from softtargets.targets import Bool, Float32, Float64, Int32, SoftTargets, UInt8

ESCAPE = 15
"""The half-byte that stands for a difference found among the escapes."""
DEFAULT_STEP = 1 / 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedTargets:
    """The targets of T positions as they are stored; the legend is in `softtargets.targets`."""

    id_planes: tuple[UInt8, ...]
    """P byte planes [T, K] of the kept ids, lowest byte first; 0 past a position's count."""
    num_entries_T: Int32
    """How many of the K entries are kept."""
    steps_TH: UInt8 | None
    """Step differences along the rank, two to a byte; None when `logits_TK` holds the values."""
    escapes_E: Int32
    """True differences of the entries written as 15, in row-major order."""
    logits_TK: Float32 | None
    """The logits themselves in lossless mode, 0 past a count; None when `steps_TK` holds them."""
    top_logit_T: Float32
    """The highest logit of the position, exact."""
    tail_mass_TG: Float32
    label_logit_T: Float32
    label_rank_T: Int32
    step: float
    """Width of a step in nats."""
    temperatures: tuple[float, ...]
    vocab_size: int

    def __len__(self) -> int:
        return len(self.top_logit_T)

    def rows(self, start: int, stop: int, first_escape: int, last_escape: int) -> PackedTargets:
        """Return positions [start, stop) as views; the caller says which escapes are theirs."""
        rows = slice(start, stop)
        return replace(
            self,
            id_planes=tuple(plane_TK[rows] for plane_TK in self.id_planes),
            num_entries_T=self.num_entries_T[rows],
            steps_TH=None if self.steps_TH is None else self.steps_TH[rows],
            escapes_E=self.escapes_E[first_escape:last_escape],
            logits_TK=None if self.logits_TK is None else self.logits_TK[rows],
            top_logit_T=self.top_logit_T[rows],
            tail_mass_TG=self.tail_mass_TG[rows],
            label_logit_T=self.label_logit_T[rows],
            label_rank_T=self.label_rank_T[rows],
        )

    def unpack(self) -> SoftTargets:
        """Return the targets to compute with."""
        ids_TK = join_ids(self.id_planes)
        if self.logits_TK is not None:
            logits_TK = self.logits_TK.copy()
        else:
            assert self.steps_TH is not None
            difference_TK = split_halves(self.steps_TH, ids_TK.shape[1]).astype(np.int64)
            difference_TK[difference_TK == ESCAPE] = self.escapes_E
            distance_TK = np.cumsum(difference_TK, axis=1) * self.step
            logits_TK = (self.top_logit_T[:, None] - distance_TK).astype(np.float32)
        logits_TK[~kept_entries(self.num_entries_T, logits_TK.shape[1])] = -np.inf
        return SoftTargets(
            ids_TK=ids_TK,
            logits_TK=logits_TK,
            num_entries_T=self.num_entries_T,
            tail_mass_TG=self.tail_mass_TG,
            label_logit_T=self.label_logit_T,
            label_rank_T=self.label_rank_T,
            temperatures=self.temperatures,
        )


def pack(targets: SoftTargets, *, vocab_size: int, step: float | None) -> PackedTargets:
    """Return `targets` in compact form; `step=None` keeps the logits lossless in float32.

    Raises:
        InputError: the logits rise along the rank, or lie too far apart to be counted in steps.
    """
    kept_TK = kept_entries(targets.num_entries_T, targets.ids_TK.shape[1])
    ids_TK = np.where(kept_TK, targets.ids_TK, 0)
    distance_TK = np.zeros(ids_TK.shape, np.float64)
    top_T1 = targets.logits_TK[:, :1].astype(np.float64)
    np.subtract(top_T1, targets.logits_TK, out=distance_TK, where=kept_TK)
    _check_falling(distance_TK, kept_TK)
    steps_TH, escapes_E = None, np.empty(0, np.int32)
    if step is not None:
        steps_TH, escapes_E = _quantise(distance_TK, kept_TK, step)
    return PackedTargets(
        id_planes=split_ids(ids_TK, num_id_planes(vocab_size)),
        num_entries_T=targets.num_entries_T,
        steps_TH=steps_TH,
        escapes_E=escapes_E,
        logits_TK=np.where(kept_TK, targets.logits_TK, np.float32(0)) if step is None else None,
        top_logit_T=targets.logits_TK[:, 0],
        tail_mass_TG=targets.tail_mass_TG,
        label_logit_T=targets.label_logit_T,
        label_rank_T=targets.label_rank_T,
        step=DEFAULT_STEP if step is None else step,
        temperatures=targets.temperatures,
        vocab_size=vocab_size,
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
