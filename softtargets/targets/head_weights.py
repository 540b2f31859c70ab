"""The output head: what turns stored hidden states into logits of the whole vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from softtargets.targets.arrays import Float32
from softtargets.targets.features import LAST_HIDDEN, FeatureSchema
from softtargets.targets.number_formats import DType
from softtargets.targets.part import Part
from softtargets.targets.promises import Promise, Promises

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
"""What may stand between two layers: x Phi(x), the same by tanh, max(x, 0), x sigma(x)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformSchema:
    """What the numbers of a `HeadTransform` do not say."""

    activation: Activation
    epsilon: float
    """What the norm adds to a variance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadTransform:
    """Layers of an output head before its product with the vocabulary, as BERT's has.

    transformed = norm(activation(hidden @ dense.T + dense_bias)), with norm(x) = (x - mean) /
    sqrt(variance + epsilon) * norm_scale + norm_shift.
    """

    dense_DD: Float32
    dense_bias_D: Float32
    norm_scale_D: Float32
    norm_shift_D: Float32
    schema: TransformSchema


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadWeights:
    """A teacher's output head: what makes logits of its last hidden states.

    logits = hidden @ weight.T + bias, times `scale`, divided by `divisor`, and soft-capped; each
    step rounded to `dtype`, as the teacher does. With a `transform`, hidden is what it makes of the
    hidden state.
    """

    weight_VD: Float32
    bias_V: Float32 | None
    dtype: DType
    """The number format of the teacher, which holds all weights exactly."""
    scale: float = 1.0
    divisor: float = 1.0
    softcap: float | None = None
    """c of c * tanh(logits / c); None when logits are not soft-capped."""
    transform: HeadTransform | None = None

    def rows(self) -> tuple[Float32, Float32 | None]:
        """Return weights [R, D] and biases [R] of all rows, in the order in which they are stored.

        After those of the vocabulary come those of the transform: a row for each number that its
        dense layer makes, then the norm's scale and its shift, which have no bias.
        """
        if self.transform is None:
            return self.weight_VD, self.bias_V
        own = self.transform
        assert self.bias_V is not None
        weight_RD = np.vstack([self.weight_VD, own.dense_DD, own.norm_scale_D, own.norm_shift_D])
        return weight_RD, np.concatenate([self.bias_V, own.dense_bias_D, np.zeros(2, np.float32)])

    @classmethod
    def of_rows(
        cls, schema: HeadWeightsSchema, weight_RD: Float32, bias_R: Float32 | None
    ) -> HeadWeights:
        """Return the output head that a schema and `rows` describe."""
        transform = None
        weight_VD, bias_V = weight_RD, bias_R
        if schema.transform is not None:
            assert bias_R is not None
            num_ids = len(weight_RD) - schema.num_own_rows
            weight_VD, bias_V = weight_RD[:num_ids], bias_R[:num_ids]
            transform = HeadTransform(
                dense_DD=weight_RD[num_ids:-2],
                dense_bias_D=bias_R[num_ids:-2],
                norm_scale_D=weight_RD[-2],
                norm_shift_D=weight_RD[-1],
                schema=schema.transform,
            )
        return cls(
            weight_VD=weight_VD,
            bias_V=bias_V,
            dtype=schema.dtype,
            scale=schema.scale,
            divisor=schema.divisor,
            softcap=schema.softcap,
            transform=transform,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadWeightsSchema:
    """The teacher's output head, whose weights lie in the store: hidden states to logits.

    logits = hidden @ weight.T + bias, times `scale`, divided by `divisor`, soft-capped.
    """

    width: int
    """Of the hidden states."""
    dtype: Literal["bfloat16", "float16", "float32"]
    """Number format of the weights, in which the teacher computes."""
    sha256: str
    """Of the weights' content, whatever file they lie in."""
    bias: bool = False
    """Whether the vocabulary's ids have a bias."""
    scale: float = 1.0
    divisor: float = 1.0
    softcap: float | None = None
    """c of c * tanh(logits / c); None when logits are not soft-capped."""
    transform: TransformSchema | None = None
    """What is done to hidden states before; None for nothing."""

    @property
    def num_own_rows(self) -> int:
        """Return how many rows of its weights are no id's."""
        return 0 if self.transform is None else self.width + 2

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HeadWeightsSchema:
        """Parse the JSON form."""
        own = data.get("transform")
        return cls(**{**data, "transform": None if own is None else TransformSchema(**own)})

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, without what changes nothing."""
        none = {"bias": False, "scale": 1, "divisor": 1, "softcap": None, "transform": None}
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in none or value != none[name]
        }


@dataclass(frozen=True, slots=True)
class OutputHead(Part):
    """The output head of targets; it lies beside the shards, so it has no column."""

    schema: HeadWeightsSchema
    features: tuple[FeatureSchema, ...]

    def describe(self) -> str:
        """Return that it is there."""
        return "the output head"

    def exactness(self, imported: Mapping[str, Any] | None) -> Iterator[str]:
        """Yield what it gives."""
        yield (
            "With `head.parquet` they give the teacher's logits of the whole vocabulary, up to the "
            "order of additions."
        )

    def fits(self) -> Promises:
        """Yield that there are the hidden states it is for."""
        wanted = (LAST_HIDDEN, self.schema.width, self.schema.dtype)
        yield Promise(
            f"a feature {LAST_HIDDEN} of each target or token, as wide and in the format of the "
            "output head",
            wanted
            in [(one.name, one.width, one.dtype) for one in self.features if one.rows != "window"],
        )
        words = "a transform only of an output head with biases"
        yield Promise(words, self.schema.transform is None or self.schema.bias)
