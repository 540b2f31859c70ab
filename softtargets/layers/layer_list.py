"""The list of a model's layers, and a configuration with some of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from softtargets.errors import InputError


def find_layers(model: torch.nn.Module, where: str, next_step: str) -> str:
    """Return the name of a model's list of layers.

    Args:
        model: of transformers.
        where: what the message names.
        next_step: what to do if there is no such list.

    Raises:
        InputError: it has none, or several.
    """
    lists = [
        (name, one)
        for name, one in model.named_modules()
        if isinstance(one, torch.nn.ModuleList) and len(one)
    ]
    # A list within a layer is a part of it, such as its experts.
    outer = [
        (name, one)
        for name, one in lists
        if not any(name.startswith(f"{other}.") for other, _ in lists)
    ]
    num_layers = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    found = [name for name, one in outer if len(one) == num_layers]
    if len(found) != 1 or len(outer) != 1:
        raise InputError(
            where,
            expected="a model with one list of layers, as its configuration counts them",
            found=f"{type(model).__name__} with {len(outer)} lists"
            if outer
            else f"{type(model).__name__}, whose layers are no list",
            next_step=next_step,
        )
    return str(found[0])


def reduce_config(config: Any, layers: Sequence[int]) -> None:
    """Let a configuration have some of its layers; what lists one value a layer is cut alike."""
    num_layers = config.num_hidden_layers
    for field, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == num_layers and "layer" in field:
            setattr(config, field, [value[one] for one in layers])
    config.num_hidden_layers = len(layers)
