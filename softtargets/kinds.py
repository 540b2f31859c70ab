"""Kinds of target: what the targets of a store are, and how they are encoded.

A store holds any sound combination of parts: a head of exact entries, samples with counts, class
logits, hidden-state features. `TargetSchema` says which, and is all that is needed to read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from softtargets.errors import InputError

DEFAULT_STEP = 1 / 16


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSchema:
    """Exact entries of the vocabulary, the position's highest logit among them."""

    max_entries: int
    """K: no position has more."""
    values: Literal["steps", "float32"] = "steps"
    """Whether logits are kept in steps (error at most step / 2) or lossless."""
    step: float | None = DEFAULT_STEP
    """Width of a step in nats; None unless values are kept in steps."""

    def __post_init__(self) -> None:
        if self.values != "steps":
            object.__setattr__(self, "step", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSchema:
    """Ids drawn from the teacher's distribution, with replacement, kept with their counts."""

    num_draws: int
    """How many at every position; none where there is nothing to draw from."""
    origin: Literal["all", "tail"]
    """Drawn from the whole vocabulary, or from what is outside the head."""
    temperature: float
    """Of the softmax that was drawn from; one of the grid."""
    values: Literal["none", "steps", "float32"] = "none"
    """How the drawn ids' logits are kept; weights at another temperature need them."""
    step: float | None = DEFAULT_STEP
    """Width of a step in nats; None unless values are kept in steps."""

    def __post_init__(self) -> None:
        if self.values != "steps":
            object.__setattr__(self, "step", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSchema:
    """Hidden states of one layer."""

    name: str
    """Which layer, for example layer_12; part of the column's name."""
    width: int
    rows: Literal["tokens", "targets", "window"]
    """One vector for each input token, for each target, or for the whole window."""
    dtype: Literal["float16", "int8", "bfloat16", "float32"]
    """With int8 every vector has a scale: its largest absolute value / 127."""

    @property
    def vector_bytes(self) -> int:
        """Return the size of one vector, without its scale."""
        return self.width * _DTYPE_BYTES[self.dtype]


_DTYPE_BYTES = {"float16": 2, "int8": 1, "bfloat16": 2, "float32": 4}
LAST_HIDDEN = "last_hidden"
"""Name of the feature that an output head turns into logits."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSchema:
    """What a store's targets are and how they are encoded; enough to read every shard of it.

    Raises:
        InputError: the parts do not fit each other.
    """

    vocab_size: int
    """Width of the teacher's output over the vocabulary, padding included."""
    tokenizer_vocab_size: int
    """How many ids the tokenizer knows."""
    temperatures: tuple[float, ...]
    """Where the whole vocabulary's softmax is known: by the tail mass if there is a head, else by
    the logsumexp. Empty when it is unknown or there is none."""
    predicts: Literal["next_token", "token", "window"] = "next_token"
    """What the target at position t is about: token t + 1, token t, or the whole window."""
    positions: Literal["all", "listed"] = "all"
    """Whether every position has a target, or those that the window lists."""
    head: HeadSchema | None = None
    samples: SampleSchema | None = None
    num_classes: int = 0
    """Width of the class logits; 0 when there are none."""
    features: tuple[FeatureSchema, ...] = ()
    output_head: HeadWeightsSchema | None = None
    """What the full distribution is recomputed with from the feature last_hidden."""
    label_ids: bool = False
    """Whether each target's label is stored; with next_token it is the next input id."""
    label_logits: bool = False
    """Whether the label's logit and its rank are stored."""
    encoder_input: bool = False
    """Whether windows hold the input of an encoder beside that of the decoder."""
    metadata: tuple[str, ...] = ()
    """Names of what is known about each document beside its id."""

    def __post_init__(self) -> None:
        for promise, holds in self._promises():
            if not holds:
                raise InputError(
                    "targets",
                    expected=promise,
                    found=f"{self.to_dict()}",
                    next_step="schemas/FORMAT.md says what goes together.",
                )

    def _promises(self) -> Iterator[tuple[str, bool]]:
        head, samples = self.head, self.samples
        texts = [temperature_text(temperature) for temperature in self.temperatures]
        names = [column for feature in self.features for column in feature_columns(feature)]
        has_labels = self.label_ids or self.predicts == "next_token"
        yield "temperatures that differ in 6 digits", len(set(texts)) == len(texts)
        yield "features whose columns differ", len(set(names)) == len(names)
        yield "metadata whose names differ", len(set(self.metadata)) == len(self.metadata)
        yield (
            "a head, samples, class logits or features",
            bool(head or samples or self.num_classes or self.features),
        )
        yield (
            "class logits without head, samples, temperatures and label logits",
            not (self.num_classes and (head or samples or texts or self.label_logits)),
        )
        yield (
            "at most as many entries in a head as the vocabulary has",
            head is None or head.max_entries <= self.vocab_size,
        )
        yield (
            "samples drawn at a temperature of the grid",
            samples is None or samples.temperature in self.temperatures,
        )
        yield (
            "samples of a tail beside a head",
            samples is None or samples.origin == "all" or head is not None,
        )
        yield (
            f"a feature {LAST_HIDDEN} of each target, as wide and in the format of the output head",
            self.output_head is None or self._has_hidden_states_for(self.output_head),
        )
        yield (
            "label ids only where the label is not the next input id",
            not (self.label_ids and self.predicts == "next_token"),
        )
        yield "label logits only where there are labels", has_labels or not self.label_logits
        yield (
            "listed positions only where a target is about a token",
            self.positions == "all" or self.predicts != "window",
        )

    def _has_hidden_states_for(self, head: HeadWeightsSchema) -> bool:
        wanted = (LAST_HIDDEN, head.width, "targets", head.dtype)
        return wanted in [(one.name, one.width, one.rows, one.dtype) for one in self.features]

    @property
    def has_top_logit(self) -> bool:
        """Return whether logits are stored that count from the position's highest."""
        return self.head is not None or (
            self.samples is not None and self.samples.values == "steps"
        )

    @property
    def num_labels(self) -> int:
        """Return how many labels there can be."""
        return self.num_classes or self.vocab_size

    @property
    def num_input_ids(self) -> int:
        """Return how many input ids there can be."""
        return max(self.vocab_size, self.tokenizer_vocab_size)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, without what is not stored."""
        data: dict[str, Any] = asdict(self)
        data["temperatures"] = list(self.temperatures)
        data["features"] = list(data["features"])
        data["output_head"] = None if self.output_head is None else self.output_head.to_dict()
        data["metadata"] = list(self.metadata)
        for part in (data["head"], data["samples"]):
            if part is not None and part["step"] is None:
                del part["step"]
        return {name: value for name, value in data.items() if value or name == "temperatures"}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TargetSchema:
        """Parse the JSON form, already checked against the identity's JSON Schema.

        Raises:
            InputError: the parts do not fit each other.
        """
        parts = {
            **data,
            "temperatures": tuple(float(one) for one in data["temperatures"]),
            "features": tuple(FeatureSchema(**one) for one in data.get("features", ())),
            "metadata": tuple(data.get("metadata", ())),
        }
        if "head" in data:
            parts["head"] = HeadSchema(**data["head"])
        if "samples" in data:
            parts["samples"] = SampleSchema(**data["samples"])
        if "output_head" in data:
            parts["output_head"] = HeadWeightsSchema(**data["output_head"])
        return cls(**parts)

    def describe(self) -> str:
        """Return what is stored at a position, in a few words."""
        parts = []
        if self.head is not None:
            exact = "lossless" if self.head.step is None else f"within {self.head.step / 2:g} nat"
            parts.append(f"top {self.head.max_entries} logits {exact}")
        if self.samples is not None:
            tail = " of the tail" if self.samples.origin == "tail" else ""
            parts.append(f"{self.samples.num_draws} draws{tail}")
        if self.num_classes:
            parts.append(f"{self.num_classes} class logits")
        parts += [f"{one.name} [{one.width}] {one.dtype}" for one in self.features]
        if self.output_head is not None:
            parts.append("the output head")
        return ", ".join(parts)


def temperature_text(temperature: float) -> str:
    """Return a temperature as it stands in a column's name: 0.5 is 0_5."""
    return f"{temperature:g}".replace(".", "_")


def feature_columns(feature: FeatureSchema) -> tuple[str, ...]:
    """Return the names of a feature's columns: its vectors and, for int8, their scales."""
    vectors = f"feature_{feature.name}"
    return (vectors, f"{vectors}_scale") if feature.dtype == "int8" else (vectors,)
