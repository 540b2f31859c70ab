"""The tensors of targets in a batch: what each part's columns become there.

Without a word of its own, a part has a tensor of each column that has an element for each target,
[B, L, ...], and one of each column whose cells have any length, padded row by row, [B, E].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from softtargets.targets import (
    LAST_HIDDEN,
    Classes,
    Column,
    Draws,
    EntryLists,
    Features,
    Grid,
    Labels,
    Part,
    TargetSchema,
    ThresholdDraws,
    parts_of,
)
from softtargets.targets.window_columns import WindowColumns

Place = Literal["targets", "tokens", "grid", "row", "draws", "entries"]


@dataclass(frozen=True, slots=True)
class TargetTensor:
    """A tensor of targets in a batch."""

    name: str
    columns: tuple[str, ...]
    """What it is made of."""
    place: Place
    """How: an element at each token that has a target, or at every token, those of several columns
    beside each other, a row's elements one after the other, or the draws or entries of each."""
    fill: float = 0
    """What stands where there is no target."""
    is_float32: bool = False
    """Whether it has numbers that targets are computed from: half of their bits would be another
    target."""


@cache
def target_tensors(schema: TargetSchema) -> tuple[TargetTensor, ...]:
    """Return the tensors that a batch has of targets."""
    return tuple(tensor for part in parts_of(schema) for tensor in _tensors(part))


def _tensors(part: Any) -> Iterator[TargetTensor]:
    make: Callable[[Any], Iterator[TargetTensor]] = _MAKERS.get(type(part), _of_columns)
    return make(part)


def _of_columns(part: Part) -> Iterator[TargetTensor]:
    places: dict[str, Place] = {"targets": "targets", "any": "row"}
    for one in part.columns():
        if one.rows in places and one.element != "string":
            place = places[one.rows]
            yield TargetTensor(one.name, (one.name,), place, one.fill, _is_float32(one))


def _of_grid(part: Grid) -> Iterator[TargetTensor]:
    """Yield all temperatures as one, [B, L, G]."""
    name, fill = ("tail_mass", 1) if part.has_entries else ("logsumexp", 0)
    yield TargetTensor(name, part.names, "grid", fill, is_float32=True)


def _of_entry_lists(part: EntryLists) -> Iterator[TargetTensor]:
    """Yield numbers of entries, and ids and logits [B, L, K], with K the most of the batch."""
    for one in part.columns():
        if one.rows == "targets":
            yield TargetTensor(one.name, (one.name,), "targets", is_float32=_is_float32(one))
    for name in ("entry_ids", "entry_logits"):
        yield TargetTensor(name, (name,), "entries", is_float32=name == "entry_logits")


def _of_labels(_: Labels) -> Iterator[TargetTensor]:
    """Yield the label's logit and rank [B, L]."""
    yield TargetTensor("label_logit", ("label_logit",), "targets", is_float32=True)
    yield TargetTensor("label_rank", ("label_rank",), "targets")


def _of_features(part: Features) -> Iterator[TargetTensor]:
    """Yield the vectors [B, L, D] of each, and their scales; those of windows are in no batch."""
    for one in part.schemas:
        if one.rows == "window":
            continue
        place: Place = "tokens" if one.rows == "tokens" else "targets"
        yield TargetTensor(feature_tensor(one.name), (one.column,), place)
        if one.scale_column is not None:
            name = feature_scales(one.name)
            yield TargetTensor(name, (one.scale_column,), place, is_float32=True)


def feature_tensor(name: str) -> str:
    """Return what a batch calls the vectors of a feature."""
    return "hidden_states" if name == LAST_HIDDEN else name


def feature_scales(name: str) -> str:
    """Return what a batch calls the scales of a feature."""
    return "hidden_scales" if name == LAST_HIDDEN else f"{name}_scales"


def _of_classes(part: Classes) -> Iterator[TargetTensor]:
    """Yield the class logits [B, C], or [B, L, C] where targets are about tokens."""
    (column,) = part.columns()
    yield TargetTensor(column.name, (column.name,), "targets", is_float32=True)


def _of_draws(part: Draws) -> Iterator[TargetTensor]:
    """Yield ids and counts [B, L, S], and their logits where the store has them."""
    names = ["sample_ids", "sample_counts"]
    if part.schema.values != "none":
        names.append("sample_logits")
    for name in names:
        yield TargetTensor(name, (name,), "draws", is_float32=name == "sample_logits")


_MAKERS: dict[type[Part], Callable[[Any], Iterator[TargetTensor]]] = {
    WindowColumns: lambda _: iter(()),  # What a window itself has is no target.
    EntryLists: _of_entry_lists,
    Grid: _of_grid,
    Labels: _of_labels,
    Features: _of_features,
    Draws: _of_draws,
    ThresholdDraws: _of_draws,
    Classes: _of_classes,
}


def _is_float32(column: Column) -> bool:
    return column.element == "float32"
