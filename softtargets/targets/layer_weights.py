"""Layers of the teacher whose weights lie in the store, to be run again on their stored input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from softtargets.targets.arrays import Array
from softtargets.targets.features import FeatureSchema
from softtargets.targets.number_formats import DType
from softtargets.targets.part import Part
from softtargets.targets.promises import Promise, Promises


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """Layers of a teacher, as they are stored."""

    numbers: tuple[int, ...]
    """Which, rising from 0."""
    num_layers: int
    """How many the teacher has."""
    model_type: str
    """What transformers calls the architecture."""
    config: Mapping[str, Any]
    """Of the teacher, as transformers writes it: what a layer does beside its weights. Its
    `attn_implementation` is that of the teacher."""
    dtype: DType
    """The number format of the teacher, in which the layers compute."""
    tensors: Mapping[str, Array]
    """Weights by layer and name, "3.attention.self.query.weight" for example, in stored form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersSchema:
    """What the identity says of layers that are run again."""

    numbers: tuple[int, ...]
    """Which, rising from 0."""
    num_layers: int
    """How many the teacher has."""
    model_type: str
    """What transformers calls the architecture."""
    dtype: DType
    """Number format of the weights, in which the teacher computes."""
    sha256: str
    """Of weights and configuration, whatever file they lie in."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LayersSchema:
        """Parse the JSON form."""
        return cls(**{**data, "numbers": tuple(data["numbers"])})

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "numbers": list(self.numbers)}


@dataclass(frozen=True, slots=True)
class Layers(Part):
    """The layers of targets; they lie beside the shards, so they have no column."""

    schema: LayersSchema
    features: tuple[FeatureSchema, ...]

    def describe(self) -> str:
        """Return which there are."""
        return f"the weights of layers {', '.join(map(str, self.schema.numbers))}"

    def exactness(self, imported: Mapping[str, Any] | None) -> Iterator[str]:
        """Yield what they give."""
        yield (
            "With `layers.safetensors` they give attention and output of layers "
            f"{', '.join(map(str, self.schema.numbers))}, as exactly as their input is stored."
        )

    def fits(self) -> Promises:
        """Yield that there is the input of each layer, at every token."""
        numbers, own = self.schema.numbers, self.features
        there = {one.layer for one in own if one.rows == "tokens"}
        yield Promise("a feature of all tokens for each layer to be run", set(numbers) <= there)
        rising = tuple(sorted(set(numbers)))
        is_sound = rising == numbers and numbers[0] >= 0 and numbers[-1] < self.schema.num_layers
        yield Promise("rising numbers of layers that the teacher has", is_sound)
