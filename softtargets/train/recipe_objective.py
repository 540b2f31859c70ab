"""The objective that a recipe describes, of logits of a vocabulary or of classes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from softtargets.errors import InputError
from softtargets.layers.rerun_layers import RerunLayers
from softtargets.store.store import Store
from softtargets.targets import LAST_HIDDEN, TargetSchema
from softtargets.train.distillation_objective import DistillationObjective
from softtargets.train.full import OutputHead
from softtargets.train.layer_objective import RelationObjective, TinyBERTObjective
from softtargets.train.losses import distillation_loss
from softtargets.train.objective import Objective
from softtargets.train.recipe import Recipe
from softtargets.train.weighted_objective import WeightedObjective


def recipe_objective(recipe: Recipe, store: Store) -> Objective:
    """Return the objective of a recipe: of logits, of layers, or of layers and then logits.

    Raises:
        InputError: the store does not have what the recipe needs.
        CorruptionError, LimitError: the layers of the store cannot be read.
    """
    own = recipe.layers
    if own is None:
        return logits_objective(recipe, store)
    teacher = RerunLayers.of(store)
    if own.kind == "minilm":
        layer = None if own.layer_map is None else own.layer_map[0]
        return RelationObjective(teacher, layer, own.relation_heads)
    return TinyBERTObjective(
        teacher,
        attention=own.attention_weight,
        hidden=own.hidden_weight,
        embeddings=own.embeddings_weight,
        layer_map=own.layer_map,
        logits=logits_objective(recipe, store) if own.logits_share else None,
        logits_share=own.logits_share,
    )


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
