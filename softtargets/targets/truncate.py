"""Fewer entries or temperatures than are stored, in the compact form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from softtargets.errors import InputError
from softtargets.targets.arrays import Cells
from softtargets.targets.exact_entries import Entries
from softtargets.targets.grid import Grid
from softtargets.targets.packed import PackedTargets
from softtargets.targets.soft_targets import temperature_index
from softtargets.targets.target_schema import TargetSchema, part_of, target_columns


def truncated_schema(schema: TargetSchema, k: int) -> TargetSchema:
    """Return what targets are when only their `k` highest entries are kept.

    Raises:
        InputError: there is no head, it has fewer entries, or draws are from the tail beside it.
    """
    entries = schema.entries
    if entries is None or not 1 <= k <= entries.max_entries or schema.draws is not None:
        raise InputError(
            "top_k",
            expected="a number of entries from 1 to those of a head without draws beside it",
            found=f"{k}, of {schema.describe()}",
            next_step="Draws estimate the tail of the head that they were drawn beside: omit top_k."
            if schema.draws is not None
            else "Pass fewer, or omit top_k.",
        )
    return replace(schema, head=replace(entries, max_entries=k))


def chosen_grid(schema: TargetSchema, temperatures: Sequence[float]) -> TargetSchema:
    """Return what targets are when only some temperatures are kept, in the order of the grid.

    Raises:
        InputError: none is named, one is not stored, or draws are weighed by one that is not.
    """
    for temperature in temperatures:
        temperature_index(schema.temperatures, temperature)
    drawn_at = None if schema.draws is None else schema.draws.temperature
    if not temperatures or (drawn_at is not None and drawn_at not in temperatures):
        grid = ", ".join(f"{one:g}" for one in schema.temperatures) or "none"
        drawn = "" if drawn_at is None else f", {drawn_at:g} among them, at which ids were drawn"
        raise InputError(
            "temperatures",
            expected=f"some of those stored ({grid}){drawn}",
            found=", ".join(f"{one:g}" for one in temperatures) or "none",
            next_step="Pass those to train at, or omit temperatures."
            if drawn_at is None
            else f"Add {drawn_at:g}: what the draws weigh follows from it.",
        )
    kept = tuple(one for one in schema.temperatures if one in temperatures)
    return replace(schema, temperatures=kept)


def narrow(packed: PackedTargets, schema: TargetSchema) -> PackedTargets:
    """Return the targets of a schema that `chosen_grid` and `truncated_schema` made."""
    packed = keep_temperatures(packed, schema)
    return packed if schema.entries is None else keep_highest(packed, schema)


def keep_temperatures(packed: PackedTargets, schema: TargetSchema) -> PackedTargets:
    """Return the targets without the temperatures that a `chosen_grid` has not."""
    if packed.schema.temperatures == schema.temperatures:
        return packed
    return _replaced(packed, packed.cells, temperatures=schema.temperatures)


def keep_highest(packed: PackedTargets, schema: TargetSchema) -> PackedTargets:
    """Return the targets of a `truncated_schema`: what is dropped joins the tail.

    The tail mass at each temperature grows by the probabilities of the dropped entries, so the kept
    ones have those they had. With label_logits the label's rank and logit stay.

    Raises:
        CorruptionError: columns do not fit each other.
    """
    entries, grid = part_of(packed.schema, Entries), part_of(packed.schema, Grid)
    assert entries is not None
    assert grid is not None
    assert schema.entries is not None
    k = schema.entries.max_entries
    if k == entries.schema.max_entries:
        return packed
    cells = dict(entries.keep_highest(packed.cells, k))
    targets = packed.unpack()
    tail_mass_TG = targets.tail_mass_TG.copy()
    for index, temperature in enumerate(grid.temperatures):
        dropped_TK = targets.logprobs_TK(temperature)[:, k:]
        dropped_T = np.exp(dropped_TK, dtype=np.float64).sum(axis=1)
        tail_mass_TG[:, index] = tail_mass_TG[:, index] + dropped_T
    cells |= grid.cells_of(tail_mass_TG)
    return _replaced(packed, cells, head=schema.entries)


def _replaced(packed: PackedTargets, cells: Cells, **changes: Any) -> PackedTargets:
    """Return targets with some changes to their schema, and the cells that are left."""
    schema = replace(packed.schema, **changes)
    own = {column.name: cells[column.name] for column in target_columns(schema)}
    return replace(packed, schema=schema, cells=own)
