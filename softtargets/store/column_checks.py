"""Values that no reader may be given: what is checked whenever windows are decoded.

A checksum says that a file is as it was written, and not that what was written makes sense. So the
flat columns of a row group are looked at before anything is made of them: ids out of their range,
numbers that are none, escapes and segments that do not fit. All of it is a few reductions of
contiguous arrays. Where one of them finds something, and only then, the place is looked for. What
columns say about each other is for `invariants`, and checked by `verify` alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from softtargets.errors import CorruptionError
from softtargets.kinds import TargetSchema, feature_columns
from softtargets.packing.features import STORED_AS, are_finite, unpack_numbers
from softtargets.packing.head import ESCAPE, escape_marks
from softtargets.store.blocks import Array, Columns, Offsets, blocks_of_rows
from softtargets.store.manifest import RESTORE
from softtargets.store.schema import grid_columns, id_columns
from softtargets.targets import Bool

_LARGEST_INT = int(np.iinfo(np.int32).max)
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_BLOCK_BYTES = 1 << 16
_BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A place in a column that is not what the format promises."""

    column: str
    row: int
    """Which window of the row group it is in."""
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class _Range:
    """The smallest and the largest number of a column, in 32 bits each."""

    column: str
    low: float
    high: float
    words: str

    def holds(self, values: Array) -> bool:
        """Return whether all numbers are in the range; False may be wrong, True is not."""
        if self.low == 0:
            # Seen as unsigned, negative numbers and NaN are above all others.
            highest = np.asarray(self.high, values.dtype).view(np.uint32)
            return bool(values.view(np.uint32).max() <= highest)
        has_low = self.low == -np.inf or values.min() >= self.low
        has_high = self.high == _LARGEST_INT or values.max() <= self.high
        return bool(has_low and has_high)

    def contains(self, values: Array) -> Bool:
        """Return which numbers are in the range."""
        return np.asarray((values >= self.low) & (values <= self.high))


def check_columns(
    columns: Columns, offsets: Offsets, targets: TargetSchema, where: str, first_row: int = 0
) -> None:
    """Check the columns of some rows.

    Args:
        columns: of every column of lists that are not texts, its values.
        offsets: where the rows' cells begin in them, and the last one ends.
        targets: what the columns are of.
        where: the row group.
        first_row: which of its rows is the first.

    Raises:
        CorruptionError: a value is none that the format has.
    """
    for fault in column_faults(columns, offsets, targets):
        raise CorruptionError(
            f"{where}, row {first_row + fault.row}, column {fault.column}",
            expected=fault.expected,
            found=fault.found,
            next_step=RESTORE,
        )


def column_faults(columns: Columns, offsets: Offsets, targets: TargetSchema) -> Iterator[Fault]:
    """Yield what is wrong with the columns of some rows, each kind of fault once; see above."""
    for one in _ranges(targets):
        values = columns[one.column]
        if len(values) and not one.holds(values):
            yield from _outside(values, one.contains(values), offsets, one.column, one.words)
    yield from _segment_faults(columns, offsets)
    if targets.positions == "listed":
        yield from _position_faults(columns, offsets, targets)
    if targets.head is not None:
        yield from _id_faults(columns, offsets, targets)
        yield from _value_faults(columns, offsets, targets)
    if targets.num_classes:
        yield from _class_faults(columns, offsets, targets)
    yield from _feature_faults(columns, offsets, targets)


@cache
def _ranges(targets: TargetSchema) -> tuple[_Range, ...]:
    """Return the ranges of the columns that have one number for each element."""
    ids = (0, targets.num_input_ids - 1, f"ids from 0 to {targets.num_input_ids - 1}")
    labels = (0, targets.num_labels - 1, f"labels from 0 to {targets.num_labels - 1}")
    vocabulary = targets.vocab_size - 1
    finite = (-_LARGEST_FLOAT, _LARGEST_FLOAT, "finite numbers")
    below_infinity = (-np.inf, _LARGEST_FLOAT, "numbers below infinity")
    ranges: dict[str, tuple[float, float, str]] = {
        "input_ids": ids,
        "segment_lengths": (1, _LARGEST_INT, "lengths of at least 1"),
    }
    if targets.label_ids:
        ranges["label_ids"] = labels
    if targets.encoder_input:
        ranges["encoder_input_ids"] = ids
    if targets.has_top_logit:
        ranges["top_logit"] = finite
    if targets.head is not None:
        most = targets.head.max_entries
        ranges["num_entries"] = (1, most, f"from 1 to {most} entries")
        if targets.head.step is not None:
            words = f"differences of at least {ESCAPE} steps"
            ranges["escapes"] = (ESCAPE, _LARGEST_INT, words)
    if targets.samples is not None:
        most = targets.samples.num_draws
        ranges["num_repeated"] = (0, most, f"from 0 to {most} ids")
        ranges["repeated_counts"] = (2, most, f"counts from 2 to {most}")
        ranges["sample_gaps"] = (0, vocabulary, f"gaps from 0 to {vocabulary}")
        if targets.samples.values == "steps":
            ranges["sample_steps"] = (0, _LARGEST_INT, "logits that are not above the top one")
        elif targets.samples.values == "float32":
            ranges["sample_logits"] = finite
    mass = (0, _BELOW_ONE, "a mass from 0 to below 1")
    for name in grid_columns(targets):
        ranges[name] = finite if targets.head is None else mass
    if targets.label_logits:
        ranges["label_logit"] = below_infinity
        ranges["label_rank"] = (0, vocabulary, f"ranks from 0 to {vocabulary}")
    if targets.num_classes:
        ranges["class_logits"] = below_infinity
    for feature in targets.features:
        for scale in feature_columns(feature)[1:]:
            # What it is multiplied by is at most 127, and is finite then, too.
            ranges[scale] = (0, _LARGEST_FLOAT / 128, "a finite scale that is not negative")
    return tuple(_Range(name, *one) for name, one in ranges.items())


def _segment_faults(columns: Columns, offsets: Offsets) -> Iterator[Fault]:
    wanted = np.diff(offsets["input_ids"])
    found = columns["segment_lengths"]
    if len(found) != len(wanted) or offsets["segment_lengths"] != list(range(len(found) + 1)):
        # Windows of several documents.
        ends = np.cumsum(np.append(0, found.astype(np.int64)))
        found = np.diff(ends[np.asarray(offsets["segment_lengths"])])
    if not np.array_equal(found, wanted):
        row = int((found != wanted).argmax())
        yield Fault(
            column="segment_lengths",
            row=row,
            expected=f"lengths that sum to the {wanted[row]} tokens of the window",
            found=f"{found[row]}",
        )


def _position_faults(columns: Columns, offsets: Offsets, targets: TargetSchema) -> Iterator[Fault]:
    positions = columns["target_positions"]
    starts = np.asarray(offsets["target_positions"])
    most = np.diff(offsets["input_ids"]) - (targets.predicts == "next_token")
    before = np.append(-1, positions[:-1])[: len(positions)]
    before[starts[:-1][starts[:-1] < len(positions)]] = -1
    holds = (positions > before) & (positions < np.repeat(most, np.diff(starts)))
    words = "places that rise within the window"
    yield from _outside(positions, holds, offsets, "target_positions", words)


def _id_faults(columns: Columns, offsets: Offsets, targets: TargetSchema) -> Iterator[Fault]:
    """Find ids above the vocabulary, byte by byte from the highest, as numbers are compared."""
    is_equal: Bool | None = None
    names = id_columns(targets)
    for number in reversed(range(len(names))):
        plane = columns[names[number]]
        limit = (targets.vocab_size - 1) >> (8 * number) & 255
        if is_equal is None:
            highest = int(plane.max(initial=0))
            is_above = None if highest <= limit else plane > limit
        else:
            highest = limit
            is_above = (plane > limit) & is_equal
        if is_above is not None and is_above.any():
            words = f"ids below {targets.vocab_size}"
            yield from _outside(plane, ~is_above.any(axis=1), offsets, names[number], words)
            return
        rest = targets.vocab_size - 1 & (1 << 8 * number) - 1
        if highest < limit or rest == (1 << 8 * number) - 1:
            return
        is_equal = plane == limit if is_equal is None else (plane == limit) & is_equal


def _value_faults(columns: Columns, offsets: Offsets, targets: TargetSchema) -> Iterator[Fault]:
    """Find escapes that do not fit the steps, or logits that are no numbers."""
    assert targets.head is not None
    if targets.head.step is None:
        logits = columns["logits"].view("<f4")
        if not are_finite(logits, "float32"):
            is_finite = np.isfinite(logits).all(axis=1)
            yield from _outside(logits, is_finite, offsets, "logits", "finite numbers")
        return
    counts = _escape_counts(columns["steps"], offsets["steps"], targets.head.max_entries)
    found = np.diff(offsets["escapes"]).tolist()
    if counts != found:
        row = next(row for row, num in enumerate(counts) if num != found[row])
        yield Fault(
            column="escapes",
            row=row,
            expected=f"a difference for each of {counts[row]} steps that are {ESCAPE}",
            found=f"{found[row]}",
        )


def _escape_counts(steps_TH: Array, bounds: Sequence[int], num_entries: int) -> list[int]:
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


def _class_faults(columns: Columns, offsets: Offsets, targets: TargetSchema) -> Iterator[Fault]:
    logits = columns["class_logits"]
    # NaN is out of the column's range, and not meant here.
    is_ruled_out_T = (logits.reshape(-1, targets.num_classes) == -np.inf).all(axis=1)
    holds = ~np.repeat(is_ruled_out_T, targets.num_classes)
    yield from _outside(logits, holds, offsets, "class_logits", "a class above -inf")


def _feature_faults(columns: Columns, offsets: Offsets, targets: TargetSchema) -> Iterator[Fault]:
    for feature in targets.features:
        name = feature_columns(feature)[0]
        if feature.dtype == "int8" or are_finite(columns[name], feature.dtype):
            continue
        values_RD = unpack_numbers(columns[name].view(STORED_AS[feature.dtype]))
        is_finite_R = np.isfinite(values_RD).all(axis=1)
        yield from _outside(values_RD, is_finite_R, offsets, name, "finite numbers")


def _outside(
    values: Array, holds: Bool | np.bool_, offsets: Offsets, column: str, expected: str
) -> Iterator[Fault]:
    """Yield a fault for the first element that is not as it should be, if there is one."""
    if holds.all():
        return
    place = int(holds.argmin())
    row = int(np.searchsorted(offsets[column], place, side="right")) - 1
    value = f"{values[place]} " if values.ndim == 1 else ""
    yield Fault(
        column=column,
        row=row,
        expected=expected,
        found=f"{value}at element {place - offsets[column][row]} of the row",
    )
