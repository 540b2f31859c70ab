"""Fewer entries or temperatures than are stored, in the compact form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from softtargets.errors import InputError
from softtargets.kinds import TargetSchema
from softtargets.packing.head import ESCAPE, PackedHead, join_halves, split_halves
from softtargets.packing.targets import PackedTargets
from softtargets.targets import temperature_index


def truncated_schema(schema: TargetSchema, k: int) -> TargetSchema:
    """Return what targets are when only their `k` highest entries are kept.

    Raises:
        InputError: there is no head, it has fewer entries, or draws are from the tail beside it.
    """
    head = schema.head
    if head is None or not 1 <= k <= head.max_entries or schema.samples is not None:
        raise InputError(
            "top_k",
            expected="a number of entries from 1 to those of a head without draws beside it",
            found=f"{k}, of {schema.describe()}",
            next_step="Draws estimate the tail of the head that they were drawn beside: leave "
            "top_k away."
            if schema.samples is not None
            else "Pass fewer, or leave top_k away.",
        )
    return replace(schema, head=replace(head, max_entries=k))


def chosen_grid(schema: TargetSchema, temperatures: Sequence[float]) -> TargetSchema:
    """Return what targets are when only some temperatures are kept, in the order of the grid.

    Raises:
        InputError: none is named, one is not stored, or draws are weighed by one that is left away.
    """
    for temperature in temperatures:
        temperature_index(schema.temperatures, temperature)
    drawn_at = None if schema.samples is None else schema.samples.temperature
    if not temperatures or (drawn_at is not None and drawn_at not in temperatures):
        grid = ", ".join(f"{one:g}" for one in schema.temperatures) or "none"
        drawn = "" if drawn_at is None else f", {drawn_at:g} among them, at which ids were drawn"
        raise InputError(
            "temperatures",
            expected=f"some of those stored ({grid}){drawn}",
            found=", ".join(f"{one:g}" for one in temperatures) or "none",
            next_step="Pass those to train at, or leave temperatures away."
            if drawn_at is None
            else f"Add {drawn_at:g}: what the draws weigh follows from it.",
        )
    kept = tuple(one for one in schema.temperatures if one in temperatures)
    return replace(schema, temperatures=kept)


def narrow(packed: PackedTargets, schema: TargetSchema) -> PackedTargets:
    """Return the targets of a schema that `chosen_grid` and `truncated_schema` made."""
    packed = keep_temperatures(packed, schema)
    return packed if schema.head is None else keep_highest(packed, schema)


def keep_temperatures(packed: PackedTargets, schema: TargetSchema) -> PackedTargets:
    """Return the targets without the temperatures that a `chosen_grid` has not."""
    grid = packed.schema.temperatures
    if grid == schema.temperatures:
        return packed
    columns = [grid.index(one) for one in schema.temperatures]
    tail_mass_TG, logsumexp_TG = packed.tail_mass_TG, packed.logsumexp_TG
    return replace(
        packed,
        schema=replace(packed.schema, temperatures=schema.temperatures),
        tail_mass_TG=None if tail_mass_TG is None else tail_mass_TG[:, columns],
        logsumexp_TG=None if logsumexp_TG is None else logsumexp_TG[:, columns],
    )


def keep_highest(packed: PackedTargets, schema: TargetSchema) -> PackedTargets:
    """Return the targets of a `truncated_schema`: what is dropped joins the tail.

    The tail mass at each temperature grows by the probabilities of the dropped entries, so the kept
    ones have those they had. With label_logits the label's rank and logit stay.

    Raises:
        CorruptionError: columns do not fit each other.
    """
    head, tail_mass_TG = packed.head, packed.tail_mass_TG
    assert head is not None
    assert schema.head is not None
    k = schema.head.max_entries
    if k == head.id_planes[0].shape[1]:
        return packed
    if tail_mass_TG is not None:
        targets = packed.unpack()
        dropped = [
            np.exp(targets.logprobs_TK(temperature)[:, k:], dtype=np.float64).sum(axis=1)
            for temperature in schema.temperatures
        ]
        tail_mass_TG = (tail_mass_TG + np.stack(dropped, axis=1)).astype(np.float32)
    return replace(
        packed,
        schema=replace(packed.schema, head=schema.head),
        head=_keep(head, k),
        tail_mass_TG=tail_mass_TG,
    )


def _keep(head: PackedHead, k: int) -> PackedHead:
    num_entries = head.id_planes[0].shape[1]
    steps_TH, escapes_E = None, head.escapes_E
    if head.steps_TH is not None:
        head.check_escapes()
        steps_TK = split_halves(head.steps_TH, num_entries)
        _, ranks_E = np.nonzero(steps_TK == ESCAPE)
        steps_TH, escapes_E = join_halves(steps_TK[:, :k]), escapes_E[ranks_E < k]
    return replace(
        head,
        id_planes=tuple(plane[:, :k] for plane in head.id_planes),
        num_entries_T=np.minimum(head.num_entries_T, k),
        steps_TH=steps_TH,
        escapes_E=escapes_E,
        logits_TK=None if head.logits_TK is None else head.logits_TK[:, :k],
    )
