"""How far an engine's numbers are from transformers', measured before its store was built."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from softtargets.places.place import Place
from softtargets.store.json_object import parse_object

_DRIFT = "work/drift.json"
_GAPS = {"logprobs": "log-probabilities", "logits": "logits", "logsumexp": "logsumexp"}
"""The numbers that are compared, and what people call them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """How far some numbers are from others, in nats."""

    mean: float
    largest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far an engine is from the same model in transformers, at temperature 1."""

    reference: Mapping[str, Any]
    """What the model in transformers is, as an identity describes a teacher."""
    windows: int
    positions: int
    top1: float
    """Share of the positions whose likeliest id is the same."""
    logprobs: Gap
    """Of the likeliest ids; the largest difference of each position is what counts."""
    logits: Gap | None = None
    """Of the same ids; None of an engine that tells log-probabilities alone."""
    logsumexp: Gap | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what the manifest has."""
        return {name: one for name, one in asdict(self).items() if one is not None}


def read_drift(place: Place) -> Mapping[str, Any]:
    """Return what the build in a place has measured of drift; nothing if it has not.

    Raises:
        StoreError: it cannot be read.
    """
    content = place.get(_DRIFT)
    return {} if content is None else parse_object(content, place.where(_DRIFT))


def write_drift(place: Place, drift: Mapping[str, Any]) -> None:
    """Keep drift, as a manifest has it, until the manifest has it.

    Raises:
        StoreError: the system refused to write.
    """
    place.put(_DRIFT, json.dumps(drift, allow_nan=False).encode())


def merged_drift(found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return what holds of stores together, of which each has drift, or says nothing of it.

    What several were measured alike counts once. Of what differs, the worst of each number holds of
    all, and what was read is the sum. Nothing holds if one says nothing, or if the references are
    several.
    """
    distinct = [one for place, one in enumerate(found) if one not in found[:place]]
    if len(distinct) == 1:
        return distinct[0]
    first = distinct[0]
    if not all(distinct) or any(one["reference"] != first["reference"] for one in distinct):
        return {}
    merged: dict[str, Any] = {
        "reference": first["reference"],
        "windows": sum(one["windows"] for one in distinct),
        "positions": sum(one["positions"] for one in distinct),
        "top1": min(one["top1"] for one in distinct),
    }
    for field in _GAPS:
        if all(field in one for one in distinct):
            merged[field] = {
                name: max(one[field][name] for one in distinct) for name in ("mean", "largest")
            }
    return merged


def drift_text(drift: Mapping[str, Any]) -> str:
    """Return for people what a manifest says of drift."""
    gaps = [
        f"{name} {drift[field]['mean']:.2g} ({drift[field]['largest']:.2g})"
        for field, name in _GAPS.items()
        if field in drift
    ]
    return (
        f"from transformers in {drift['reference']['dtype']}, in nats, the mean and in brackets "
        f"the largest: {', '.join(gaps)}. The likeliest id is the same at {drift['top1']:.2%} of "
        f"{drift['positions']:,} positions"
    )
