"""The objective that a recipe describes, of logits of a vocabulary or of classes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from softtargets.errors import InputError
from softtargets.store.store import Store
from softtargets.targets import LAST_HIDDEN, TargetSchema
from softtargets.train.distillation_objective import DistillationObjective
from softtargets.train.full import OutputHead
from softtargets.train.losses import distillation_loss
from softtargets.train.objective import Objective
from softtargets.train.recipe import Recipe
from softtargets.train.weighted_objective import WeightedObjective


def logits_objective(recipe: Recipe, store: Store) -> Objective:
    """Return the distillation of logits by a recipe, with the cosine if that has a weight.

    Args:
        recipe: without None but for the tail.
        store: whose targets it is about.

    Raises:
        InputError: the store has no labels, hidden states or output head, and the recipe needs
            them.
    """
    _check_labels(recipe, store.targets)
    options: dict[str, Any] = {
        "temperature": recipe.temperature,
        "divergence": recipe.divergence,
        "tail": recipe.tail,
    }
    if recipe.tail == "full":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        options["teacher_head"] = OutputHead.of(store, device=device)
    if recipe.cosine_weight == 0 and recipe.logits_weight == 1:
        loss = partial(distillation_loss, ce_weight=recipe.ce_weight, **options)
        return DistillationObjective(loss)
    if recipe.cosine_weight > 0:
        _check_hidden_states(store.targets)
    labels = recipe.logits_weight * recipe.ce_weight
    soft = recipe.logits_weight - labels
    return WeightedObjective(soft, labels, recipe.cosine_weight, **options)


def _check_labels(recipe: Recipe, targets: TargetSchema) -> None:
    if recipe.ce_weight > 0 and not (targets.has_labels or targets.label_values):
        raise InputError(
            "the recipe, its labels",
            expected="a store with labels, to train on them",
            found="one without",
            next_step="Omit --ce-weight, --baseline and --recipe labels, or build the store with "
            "--label-field.",
        )


def _check_hidden_states(targets: TargetSchema) -> None:
    if LAST_HIDDEN not in [one.name for one in targets.features]:
        raise InputError(
            "the recipe, its cosine",
            expected="a store with the teacher's last hidden states",
            found="one without",
            next_step="Build the store with --hidden-states, or pass --cosine-weight 0.",
        )
