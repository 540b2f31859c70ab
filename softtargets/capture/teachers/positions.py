"""How many tokens a model has positions for."""

from __future__ import annotations

import torch

_EMBEDDINGS = ("position_embeddings", "embed_positions", "wpe")
"""What families call the embedding of positions."""


def count_positions(model: torch.nn.Module) -> int | None:
    """Return how many tokens a model has positions for; None if it does not embed positions.

    RoBERTa and its kin count positions from the one after `padding_idx`, and OPT and BART from an
    offset. No weight is needed, so the model may be on the device "meta".
    """
    for name, layer in model.named_modules():
        if name.endswith(_EMBEDDINGS) and isinstance(layer, torch.nn.Embedding):
            after_padding = 0 if layer.padding_idx is None else layer.padding_idx + 1
            return layer.num_embeddings - int(getattr(layer, "offset", after_padding))
    return None
