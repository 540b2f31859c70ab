"""What the targets of a store are, and how they are encoded.

A store holds any sound combination of parts: exact entries, draws with counts, class logits,
hidden-state features. `TargetSchema` says which, and is all that is needed to read them. It is the
one place where parts are listed; whatever handles targets asks `parts_of`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, Literal, TypeVar

from softtargets.targets.classes import Classes, ClassProblem
from softtargets.targets.conventions import (
    CONVENTIONS,
    DEFAULT_CONVENTION,
    Convention,
    Predicts,
)
from softtargets.targets.drawn_ids import Draws, DrawsSchema
from softtargets.targets.entry_lists import EntryLists
from softtargets.targets.entry_planes import EntryPlanes
from softtargets.targets.exact_entries import EntriesSchema
from softtargets.targets.features import Features, FeatureSchema
from softtargets.targets.grid import Grid
from softtargets.targets.head_weights import HeadWeightsSchema, OutputHead
from softtargets.targets.labels import Labels
from softtargets.targets.layer_weights import Layers, LayersSchema
from softtargets.targets.own_part import REGISTERED, OwnPart
from softtargets.targets.part import Column, Part
from softtargets.targets.promises import Promise, Promises, check
from softtargets.targets.threshold_draws import ThresholdDraws
from softtargets.targets.window_columns import WindowColumns

AnyPart = TypeVar("AnyPart", bound=Part)


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
    """Where the whole vocabulary's softmax is known: by the tail mass if there are entries, else by
    the logsumexp. Empty when it is unknown or there is none."""
    grid_step: float | None = None
    """Width in nats of the steps that the log-odds of tail masses are kept in; None where tail
    masses are kept as they are."""
    predicts: Predicts = DEFAULT_CONVENTION.name
    """What the target at position t is about, see `convention`."""
    positions: Literal["all", "listed"] = "all"
    """Whether every position has a target, or those that the window lists."""
    head: EntriesSchema | None = None
    """The entries; manifests call them so."""
    samples: DrawsSchema | None = None
    """The draws; manifests call them so."""
    num_classes: int = 0
    """Width of the class logits; 0 when there are none."""
    class_names: tuple[str, ...] = ()
    """What the teacher calls each class."""
    problem: ClassProblem | None = None
    """What class logits are where not just one class is right."""
    features: tuple[FeatureSchema, ...] = ()
    output_head: HeadWeightsSchema | None = None
    """What the full distribution is recomputed with from the feature last_hidden."""
    layers: LayersSchema | None = None
    """What is run again on the features layer_N."""
    label_ids: bool = False
    """Whether each target's label is stored; with next_token it is the next input id."""
    label_values: bool = False
    """Whether each target has a number for each class instead: 0 or 1, or the score's value."""
    partly_labelled: bool = False
    """Whether targets may have no label: -1 among label ids, NaN among values."""
    label_logits: bool = False
    """Whether the label's logit and its rank are stored."""
    label_step: float | None = None
    """Width in nats of the steps below the top logit that the label's logit is kept in; None where
    it is kept as it is."""
    encoder_input: bool = False
    """Whether windows hold the input of an encoder beside that of the decoder."""
    token_types: bool = False
    """Whether each token's type is stored: which text of a pair it is of."""
    pad_token_id: int = 0
    """What stands after a window in a batch: some models look for it to find the last token."""
    metadata: tuple[str, ...] = ()
    """Names of what is known about each document beside its id."""
    others: tuple[OwnPart, ...] = ()
    """Parts of your own."""

    def __post_init__(self) -> None:
        check(self._promises(), "targets", next_step="schemas/FORMAT.md says what goes together.")

    def _promises(self) -> Promises:
        found = f"{self.to_dict()}"
        for part in _parts(self):
            yield from (promise._replace(found=found) for promise in part.fits())
        yield Promise(
            "a head, samples, class logits or features",
            bool(self.head or self.samples or self.num_classes or self.features or self.others),
            found,
        )
        beside = (self.head, self.samples, self.temperatures, self.label_logits)
        yield Promise(
            "class logits without head, samples, temperatures and label logits",
            not (self.num_classes and any(beside)),
            found,
        )
        words = "names of classes, problem and label values only beside class logits"
        of_classes = self.class_names or self.problem or self.label_values
        yield Promise(words, bool(self.num_classes) or not of_classes, found)
        words = "label values with a problem, and label ids without one"
        is_sound = not (self.label_ids if self.problem else self.label_values)
        yield Promise(words, is_sound, found)
        words = "a pad_token_id that is an input id"
        yield Promise(words, 0 <= self.pad_token_id < self.num_input_ids, found)
        words = "label logits only where there are labels"
        yield Promise(words, self.has_labels or not self.label_logits, found)
        yield from (promise._replace(found=found) for promise in self._step_promises())

    def _step_promises(self) -> Promises:
        """Yield what steps count from."""
        head, draws = self.head, self.samples
        has_label_step = self.label_step is not None
        words = "a label's step only beside a head, with label logits"
        yield Promise(words, not has_label_step or (head is not None and self.label_logits))
        if draws is not None and draws.design == "threshold":
            words = "threshold draws beside a head in lists"
            yield Promise(words, head is not None and head.form == "lists")
        if head is not None and not head.top_logit:
            is_relative = head.values == "steps"
            words = "a head without its top logit in steps, or in lists"
            yield Promise(words, is_relative or head.form == "lists")
            # Logits beside relative ones would be of another scale.
            words = "labels in steps beside a head without its top logit"
            yield Promise(words, has_label_step or not self.label_logits or not is_relative)
            words = "draws in steps, or without logits, beside a head without its top logit"
            yield Promise(words, draws is None or draws.values != "float32" or not is_relative)

    @property
    def convention(self) -> Convention:
        """Return how the targets of a window stand to its tokens."""
        return CONVENTIONS[self.predicts]

    @property
    def has_labels(self) -> bool:
        """Return whether each target's label is known."""
        return self.label_ids or self.convention.labels_are_inputs

    @property
    def entries(self) -> EntriesSchema | None:
        """Return how entries are stored, if there are any."""
        return self.head

    @property
    def draws(self) -> DrawsSchema | None:
        """Return how draws are stored, if there are any."""
        return self.samples

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
        data: dict[str, Any] = {}
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if name == "others":
                data |= {part.key: part.to_dict() for part in self.others}
            elif value or name == "temperatures":
                data[name] = _json(value)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TargetSchema:
        """Parse the JSON form, already checked against the identity's JSON Schema.

        Raises:
            InputError: the parts do not fit each other.
        """
        parsed = {
            **without_own_parts(data),
            "temperatures": tuple(float(one) for one in data["temperatures"]),
            "features": tuple(FeatureSchema(**one) for one in data.get("features", ())),
            "metadata": tuple(data.get("metadata", ())),
            "class_names": tuple(data.get("class_names", ())),
            "others": tuple(kind(**data[key]) for key, kind in REGISTERED.items() if key in data),
        }
        for name, kind in _SCHEMAS.items():
            if name in data:
                parsed[name] = kind(**data[name])
        if "output_head" in data:
            parsed["output_head"] = HeadWeightsSchema.from_dict(data["output_head"])
        if "layers" in data:
            parsed["layers"] = LayersSchema.from_dict(data["layers"])
        return cls(**parsed)

    def describe(self) -> str:
        """Return what is stored at a position, in a few words."""
        return ", ".join(words for part in parts_of(self) if (words := part.describe()))


_AS_BEFORE = {"form": "planes", "top_logit": True, "design": "independent"}
"""What is not said in JSON: format 1.2 knew nothing else, and its stores keep their fingerprint."""
_SCHEMAS = {"head": EntriesSchema, "samples": DrawsSchema}


def without_own_parts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON form of a schema without the parts that the package does not know."""
    return {name: value for name, value in data.items() if name not in REGISTERED}


@cache
def parts_of(targets: TargetSchema) -> tuple[Part, ...]:
    """Return the parts of targets, in the order of their columns."""
    return tuple(_parts(targets))


def _parts(targets: TargetSchema) -> Iterator[Part]:
    has_entries = targets.head is not None
    grid = Grid(targets.temperatures, has_entries=has_entries, step=targets.grid_step)
    yield WindowColumns(
        num_input_ids=targets.num_input_ids,
        num_labels=targets.num_labels,
        convention=targets.convention,
        are_listed=targets.positions == "listed",
        has_label_ids=targets.label_ids,
        has_label_values=targets.label_values,
        is_partly_labelled=targets.partly_labelled,
        has_encoder=targets.encoder_input,
        has_token_types=targets.token_types,
        metadata=targets.metadata,
    )
    if targets.head is not None:
        entries = EntryLists if targets.head.form == "lists" else EntryPlanes
        yield entries(targets.head, targets.vocab_size)
    if targets.samples is not None:
        draws = ThresholdDraws if targets.samples.design == "threshold" else Draws
        yield draws(targets.samples, targets.vocab_size, grid)
    yield grid
    if targets.label_logits:
        yield Labels(targets.vocab_size, targets.label_step)
    if targets.num_classes:
        yield Classes(targets.num_classes, targets.class_names, targets.problem)
    if targets.features:
        yield Features(targets.features)
    if targets.output_head is not None:
        yield OutputHead(targets.output_head, targets.features)
    if targets.layers is not None:
        yield Layers(targets.layers, targets.features)
    yield from targets.others


@cache
def columns_of(targets: TargetSchema) -> tuple[Column, ...]:
    """Return the columns of a shard, in their order."""
    return tuple(column for part in parts_of(targets) for column in part.columns())


@cache
def target_columns(targets: TargetSchema) -> tuple[Column, ...]:
    """Return the columns of a shard without those that say what was scored."""
    parts = (part for part in parts_of(targets) if not isinstance(part, WindowColumns))
    return tuple(column for part in parts for column in part.columns())


def part_of(targets: TargetSchema, kind: type[AnyPart]) -> AnyPart | None:
    """Return the part of a kind, if the targets have it."""
    return next((part for part in parts_of(targets) if isinstance(part, kind)), None)


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_json(one) for one in value]
    if isinstance(value, HeadWeightsSchema | LayersSchema):
        return value.to_dict()
    if isinstance(value, (EntriesSchema, DrawsSchema, FeatureSchema)):
        own = asdict(value).items()
        return {name: one for name, one in own if one is not None and _AS_BEFORE.get(name) != one}
    return value
