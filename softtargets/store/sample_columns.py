"""The columns of samples: what makes samples of them, and sees first that they can be made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from softtargets.errors import CorruptionError
from softtargets.kinds import TargetSchema
from softtargets.packing import PackedSamples
from softtargets.packing.targets import num_draws
from softtargets.store.schema import grid_columns
from softtargets.targets import Int32, Samples

Array = npt.NDArray[Any]
Columns = Mapping[str, Array]

STORED = {"num_repeated", "repeated_counts", "sample_gaps", "sample_steps", "sample_logits"}
"""The columns that samples are stored in."""


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


def unpack_samples(cells: Columns, targets: TargetSchema) -> Samples:
    """Return the samples of the positions that some cells are of, to compute with.

    Raises:
        CorruptionError: the columns do not fit each other, or an id is not in the vocabulary.
    """
    return packed_samples(cells, targets).unpack(
        _num_draws(cells, targets),
        cells["top_logit"] if targets.has_top_logit else None,
        targets.vocab_size,
    )


def check_samples(
    columns: Columns,
    offsets: Mapping[str, list[int]],
    targets: TargetSchema,
    where: str,
    first_row: int = 0,
) -> None:
    """Check that the samples of some rows can be unpacked.

    Raises:
        CorruptionError: they cannot; the message names the first such row.
    """
    try:
        _check(columns, targets)
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
    columns: Columns, offsets: Mapping[str, list[int]], targets: TargetSchema
) -> tuple[int, CorruptionError] | None:
    for row in range(len(offsets["mask"]) - 1):
        cells = {
            name: values[offsets[name][row] : offsets[name][row + 1]]
            for name, values in columns.items()
        }
        try:
            _check(cells, targets)
        except CorruptionError as error:
            return row, error
    return None


def _num_draws(cells: Columns, targets: TargetSchema) -> Int32:
    assert targets.samples is not None
    grid_TG = None
    if targets.samples.origin == "tail":
        grid_TG = np.stack([cells[name] for name in grid_columns(targets)], axis=1)
    return num_draws(targets, grid_TG, len(cells["num_repeated"]))
