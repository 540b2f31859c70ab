"""What a batch holds of windows from several stores: the targets that all of the stores have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from softtargets.targets import TargetSchema

_Value = TypeVar("_Value")

_PER_WINDOW = ("positions", "metadata", "grid_step", "label_step")
"""What each window says of itself, whatever the others of its batch do; or how it was stored, which
a batch does not show."""
_IN_COMMON = ("temperatures", "label_logits")
"""Of which a batch holds what all stores have: no loss at a temperature needs another one's tail
mass, and none needs the label's logit."""

_ADVICE = {
    "vocab_size": "Mix stores of teachers that have one vocabulary.",
    "tokenizer_vocab_size": "Mix stores of teachers that have one tokenizer.",
    "head": "Build the stores with the same --select, --top-k, --top-p and --values.",
    "samples": "Build the stores with the same --select, --draws, --select-temperature and "
    "--values.",
    "features": "Build all of the stores with the same --hidden-states, or none.",
    "layers": "Layers run again on their own input: build the stores with the same --rerun-layers.",
    "output_head": "Hidden states go with the output head of their own teacher: build the stores "
    "without --hidden-states, or from one teacher.",
}
"""What to do where the stores differ in a field."""
_OTHERWISE = "Give each store a dataset of its own: their windows are for different losses."


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A field of the targets because of which two stores share no batch."""

    field: str
    expected: Any
    found: Any
    next_step: str


def first_difference(first: TargetSchema, other: TargetSchema) -> Difference | None:
    """Return what keeps targets of two schemas from sharing a batch; None if nothing does."""
    return next(_differences(first, other), None)


def common_targets(first: TargetSchema, other: TargetSchema) -> TargetSchema:
    """Return what a batch holds of windows of two schemas between which is no difference."""
    if first == other:
        return first
    return replace(
        first,
        temperatures=_shared(first.temperatures, other.temperatures),
        positions="listed" if "listed" in (first.positions, other.positions) else "all",
        label_logits=first.label_logits and other.label_logits,
        metadata=_shared(first.metadata, other.metadata),
    )


def _differences(first: TargetSchema, other: TargetSchema) -> Iterator[Difference]:
    expected, found = first.to_dict(), other.to_dict()
    names = (one.name for one in fields(TargetSchema))
    for field in dict.fromkeys([*names, *expected, *found]):
        own, others = expected.get(field), found.get(field)
        if own != others and field not in (*_PER_WINDOW, *_IN_COMMON):
            yield Difference(
                field=field,
                expected=own,
                found=others,
                next_step=_ADVICE.get(field, _OTHERWISE),
            )
    grids = first.temperatures, other.temperatures
    if any(grids) and not _shared(*grids):
        yield Difference(
            field="temperatures",
            expected=list(first.temperatures),
            found=list(other.temperatures),
            next_step="Build a store again with a --temperature of the others: a batch has those "
            "that all of its stores have.",
        )


def _shared(first: tuple[_Value, ...], other: tuple[_Value, ...]) -> tuple[_Value, ...]:
    """Return what both have, in the order of the first."""
    return tuple(one for one in first if one in other)
