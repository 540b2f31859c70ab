"""The columns of samples: what makes samples of them, and sees first that they can be made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from softtargets.errors import CorruptionError
from softtargets.kinds import TargetSchema
from softtargets.packing import PackedSamples
from softtargets.packing.targets import num_draws
from softtargets.store.blocks import Array, Columns, Offsets, blocks_of_rows
from softtargets.store.schema import grid_columns
from softtargets.targets import Int32, Samples

STORED = {"num_repeated", "repeated_counts", "sample_gaps", "sample_steps", "sample_logits"}
"""The columns that samples are stored in."""
_BLOCK_SAMPLES = 1 << 14


def packed_samples(cells: Columns, targets: TargetSchema) -> PackedSamples:
    """Return the samples of the positions that some cells are of."""
    assert targets.samples is not None
    return PackedSamples(
        num_repeated_T=cells["num_repeated"],
        repeated_counts=cells["repeated_counts"],
        gaps_S=cells["sample_gaps"],
        steps_S=cells.get("sample_steps"),
        logits_S=cells.get("sample_logits"),
        step=targets.samples.step,
    )


def _unpack(cells: Columns, targets: TargetSchema) -> Samples:
    """Return the samples of the positions that some cells are of, to compute with.

    Raises:
        CorruptionError: the columns do not fit each other, or an id is not in the vocabulary.
    """
    return packed_samples(cells, targets).unpack(
        _num_draws(cells, targets),
        cells["top_logit"] if targets.has_top_logit else None,
        targets.vocab_size,
    )


def unpack_columns(
    columns: Columns, offsets: Offsets, targets: TargetSchema, where: str
) -> tuple[dict[str, Array], Offsets]:
    """Return the columns of some rows with their samples unpacked, to make batches of.

    Instead of the stored columns there are `num_samples`, for each position, and `sample_ids`,
    `sample_counts` and, where the store has them, `sample_logits`, for each sample.

    Raises:
        CorruptionError: they cannot be unpacked; the message names the first such row.
    """
    places, starts = offsets["mask"], offsets["sample_gaps"]
    others = {name: values for name, values in columns.items() if name not in STORED}
    unpacked = {
        "num_samples": np.empty(places[-1], np.int32),
        "sample_ids": np.empty(starts[-1], np.int32),
        "sample_counts": np.empty(starts[-1], np.int32),
    }
    if targets.samples is not None and targets.samples.values != "none":
        unpacked["sample_logits"] = np.empty(starts[-1], np.float32)
    for first, last in blocks_of_rows(starts, _BLOCK_SAMPLES):
        cells = _cells(columns, offsets, targets, first, last)
        with _naming_rows(columns, offsets, targets, where):
            samples = _unpack(cells, targets)
        unpacked["num_samples"][places[first] : places[last]] = samples.num_samples_T
        own = slice(starts[first], starts[last])
        unpacked["sample_ids"][own] = samples.ids_S
        unpacked["sample_counts"][own] = samples.counts_S
        if samples.logits_S is not None:
            unpacked["sample_logits"][own] = samples.logits_S
    return {**others, **unpacked}, {
        **{name: offsets[name] for name in others},
        **dict.fromkeys(unpacked, starts),
        "num_samples": places,
    }


def check_samples(
    columns: Columns, offsets: Offsets, targets: TargetSchema, where: str, first_row: int = 0
) -> None:
    """Check that the samples of some rows can be unpacked.

    Raises:
        CorruptionError: they cannot; the message names the first such row.
    """
    with _naming_rows(columns, offsets, targets, where, first_row):
        _check(columns, targets)


@contextmanager
def _naming_rows(
    columns: Columns, offsets: Offsets, targets: TargetSchema, where: str, first_row: int = 0
) -> Iterator[None]:
    """Name the first damaged row in a CorruptionError."""
    try:
        yield
    except CorruptionError as error:
        row, first = _first_damaged(columns, offsets, targets) or (0, error)
        raise CorruptionError(
            f"{where}, row {first_row + row}, {first.where}",
            expected=first.expected,
            found=first.found,
            next_step=first.next_step,
        ) from error


def _check(cells: Columns, targets: TargetSchema) -> None:
    packed_samples(cells, targets).check(_num_draws(cells, targets), targets.vocab_size)


def _first_damaged(
    columns: Columns, offsets: Offsets, targets: TargetSchema
) -> tuple[int, CorruptionError] | None:
    for row in range(len(offsets["mask"]) - 1):
        try:
            _check(_cells(columns, offsets, targets, row, row + 1), targets)
        except CorruptionError as error:
            return row, error
    return None


def _cells(
    columns: Columns, offsets: Offsets, targets: TargetSchema, first: int, last: int
) -> dict[str, Array]:
    """Return the cells of rows, one after the other, of what samples are unpacked from."""
    names = {*STORED, "top_logit", *grid_columns(targets)} & columns.keys()
    return {name: columns[name][offsets[name][first] : offsets[name][last]] for name in names}


def _num_draws(cells: Columns, targets: TargetSchema) -> Int32:
    assert targets.samples is not None
    grid_TG = None
    if targets.samples.origin == "tail":
        grid_TG = np.stack([cells[name] for name in grid_columns(targets)], axis=1)
    return num_draws(targets, grid_TG, len(cells["num_repeated"]))
