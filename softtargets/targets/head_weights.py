"""The output head: what turns stored hidden states into logits of the whole vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from softtargets.targets.arrays import Float32
from softtargets.targets.features import LAST_HIDDEN, FeatureSchema
from softtargets.targets.number_formats import DType
from softtargets.targets.part import Part
from softtargets.targets.promises import Promise, Promises


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadWeights:
    """A teacher's output head: what makes logits of its last hidden states.

    logits = hidden @ weight.T + bias, times `scale`, divided by `divisor`, and soft-capped; each
    step rounded to `dtype`, as the teacher does.
    """

    weight_VD: Float32
    bias_V: Float32 | None
    dtype: DType
    """The number format of the teacher, which holds all weights exactly."""
    scale: float = 1.0
    divisor: float = 1.0
    softcap: float | None = None
    """c of c * tanh(logits / c); None when logits are not soft-capped."""


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

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, without what changes nothing."""
        none = {"bias": False, "scale": 1, "divisor": 1, "softcap": None}
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
        wanted = (LAST_HIDDEN, self.schema.width, "targets", self.schema.dtype)
        yield Promise(
            f"a feature {LAST_HIDDEN} of each target, as wide and in the format of the output head",
            wanted in [(one.name, one.width, one.rows, one.dtype) for one in self.features],
        )
