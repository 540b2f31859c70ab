"""What of a store a student is trained on, by name: a temperature, a divergence, and weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from softtargets.targets import TargetSchema
from softtargets.train.choices import check_number, check_options
from softtargets.train.divergences import DivergenceName, as_divergence
from softtargets.train.sparse import Tail, check_tail

PREFERRED_TEMPERATURE = 1.0
"""At which students are trained and judged if a store holds it and nobody says otherwise."""


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

    def resolved(self, schema: TargetSchema, **given: Any) -> Recipe:
        """Return it with what was asked for, as far as that is not None, and with a temperature.

        Raises:
            InputError: a number is out of range, or a name is unknown.
            TemperatureError: the temperature is no positive number.
        """
        chosen = replace(self, **{name: one for name, one in given.items() if one is not None})
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


LABELS = Recipe(ce_weight=1.0)
"""Plain training, without a teacher."""


def stored_temperature(schema: TargetSchema) -> float:
    """Return the temperature of a store to train or judge at if none is named."""
    grid = schema.temperatures
    return PREFERRED_TEMPERATURE if not grid or PREFERRED_TEMPERATURE in grid else min(grid)
