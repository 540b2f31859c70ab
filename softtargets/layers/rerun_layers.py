"""The teacher's layers of a store, run again on the inputs that a batch has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from softtargets.layers.layer_body import LayerBody, LayerRun
from softtargets.store.store import Store
from softtargets.store.stored_layers import read_layers
from softtargets.targets import LayerWeights


class RerunLayers:
    """Layers by number.

    Args:
        weights: of the layers.
        where: what messages name.

    Raises:
        InputError, LimitError: see `LayerBody`.
    """

    def __init__(self, weights: LayerWeights, where: str) -> None:
        self.num_layers = weights.num_layers
        """How many layers the teacher has."""
        self._bodies = {one: LayerBody(weights, one, where) for one in weights.numbers}
        self.width = self._bodies[weights.numbers[0]].width
        """Of the hidden states."""

    @classmethod
    def of(cls, store: Store) -> RerunLayers:
        """Return the layers of a store.

        Raises:
            InputError: it has none, or see `LayerBody`.
            CorruptionError: their file is damaged.
            LimitError: their configuration asks for too much memory.
        """
        return cls(read_layers(store), str(store.location))

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return which layers there are."""
        return tuple(self._bodies)

    def run(self, number: int, hidden_BLD: torch.Tensor, inputs: Mapping[str, Any]) -> LayerRun:
        """Return what a layer does with its input, see `LayerBody.run`."""
        return self._bodies[number].run(hidden_BLD, inputs)
