"""What of a store a student is trained on, by name: a temperature, a divergence, and weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from softtargets.errors import InputError
from softtargets.targets import TargetSchema
from softtargets.train.choices import check_number, check_options
from softtargets.train.divergences import DivergenceName, as_divergence
from softtargets.train.sparse import Tail, check_tail

PREFERRED_TEMPERATURE = 1.0
"""At which students are trained and judged if a store holds it and nobody says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecipe:
    """What of the teacher's layers a student is trained on, see `TinyBERTObjective`."""

    kind: Literal["tinybert", "minilm"]
    attention_weight: float = 1.0
    hidden_weight: float = 1.0
    embeddings_weight: float = 1.0
    layer_map: tuple[int, ...] | None = None
    """The layer of the teacher for each of the student's; None for every k-th. For minilm the layer
    whose relations are learned; None for the last that the store has."""
    relation_heads: int | None = None
    """Of minilm; None for as many as the teacher has heads."""
    logits_share: float = 0.0
    """Of the training, at its end, that is for logits instead of layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The arguments of a loss; a task has several by name.

    The loss is logits_weight * `distillation_loss` + cosine_weight * (1 - cos), where cos is the
    cosine of the last hidden states of student and teacher, see `WeightedObjective`.
    """

    temperature: float | None = None
    """None for 1, or for the lowest that the store holds if it does not hold 1."""
    ce_weight: float = 0.0
    """Of the cross-entropy on labels; 1 for that alone."""
    divergence: DivergenceName = "forward_kl"
    tail: Tail | None = None
    """None for what suits the store, see `Tail`."""
    logits_weight: float = 1.0
    """Of the divergence and the cross-entropy together."""
    cosine_weight: float = 0.0
    """0 for no cosine; else the store has the teacher's hidden states."""
    layers: LayerRecipe | None = None
    """What is learned of layers instead, or before; None for nothing."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON, without what it does not have."""
        data = asdict(self)
        if data["layers"] is None:
            del data["layers"]
        elif data["layers"]["layer_map"] is not None:
            data["layers"]["layer_map"] = list(data["layers"]["layer_map"])
        return data

    def resolved(self, schema: TargetSchema, **given: Any) -> Recipe:
        """Return it with what was asked for, as far as that is not None, and with a temperature.

        Raises:
            InputError: a number is out of range, or a name is unknown.
            TemperatureError: the temperature is no positive number.
        """
        asked = {name: one for name, one in given.items() if one is not None}
        chosen = self._with_layers({name: asked.pop(name) for name in _OF_LAYERS & asked.keys()})
        chosen = replace(chosen, **asked)
        if chosen.temperature is None:
            chosen = replace(chosen, temperature=stored_temperature(schema))
        assert chosen.temperature is not None
        check_tail(chosen.tail)
        check_options(chosen.temperature, chosen.ce_weight)
        next_step = "Pass 1, or a weight beside that of the cosine."
        weight = chosen.logits_weight
        check_number("logits_weight", weight, low=0, with_ends=False, next_step=next_step)
        check_number("cosine_weight", chosen.cosine_weight, low=0, next_step="0 leaves it out.")
        as_divergence(chosen.divergence)
        return chosen

    def _with_layers(self, given: dict[str, Any]) -> Recipe:
        """Return it with what was asked for of layers.

        Raises:
            InputError: something was, and it has no layers.
        """
        if not given:
            return self
        if self.layers is None:
            names = sorted(f"--{one.replace('_', '-')}" for one in given)
            raise InputError(
                ", ".join(names),
                expected="a recipe of layers",
                found="one of logits",
                next_step="Omit them, or choose such a recipe, tinybert-general for example.",
            )
        return replace(self, layers=replace(self.layers, **given))


_OF_LAYERS = {one.name for one in fields(LayerRecipe)}
TINYBERT_GENERAL = Recipe(layers=LayerRecipe(kind="tinybert"))
"""Embeddings, hidden states and attention of a language model (Jiao et al. 2020)."""
TINYBERT_TASK = Recipe(layers=LayerRecipe(kind="tinybert", logits_share=0.5))
"""The same of a fine-tuned model, and then its logits at temperature 1."""
MINILM = Recipe(layers=LayerRecipe(kind="minilm"))
"""Relations of one layer (Wang et al. 2021, MiniLMv2)."""
LABELS = Recipe(ce_weight=1.0)
"""Plain training, without a teacher."""


def stored_temperature(schema: TargetSchema) -> float:
    """Return the temperature of a store to train or judge at if none is named."""
    grid = schema.temperatures
    return PREFERRED_TEMPERATURE if not grid or PREFERRED_TEMPERATURE in grid else min(grid)
