"""How far stored inputs of layers are from a live teacher's, beside what that itself varies by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from softtargets.capture.keep.selected import Selected
from softtargets.targets import FeatureSchema, Float32, Float64
from softtargets.targets.features import unpack_feature
from softtargets.window import Window

_ROUNDING = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11, "float8": 2.0**-4}
"""By how much a number may be off, as a share of it."""
_SMALLEST = {"float8": 2.0**-10, "int8": 0.5}
"""By how much it may be off, as a share of its vector's scale."""
_FLOAT16_STEP = 2.0**-25
_NOISE = 1e-5
"""What sums of float32 in another order come to, relative to their sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFidelity:
    """What was found of a feature: root-mean-square errors, as a share of the states' own."""

    name: str
    stored: float
    """The store against the live teacher."""
    live: float
    """The live teacher against itself in batches of other windows."""
    bound: float
    """What the stored form may add."""

    @property
    def holds(self) -> bool:
        """Return whether the store differs by no more than the teacher and the stored form do."""
        return self.stored <= self.live + self.bound + _NOISE


@dataclass(slots=True)
class StateComparison:
    """States of a feature beside two live passes, summed over windows."""

    schema: FeatureSchema
    _sums: Float64 = field(default_factory=lambda: np.zeros(4))

    def add(self, window: Window, alone: Float32, together: Float32) -> None:
        """Compare a window's states [R, D] with the live teacher's, read alone and with others."""
        cells = window.packed.cells
        stored = unpack_feature(cells, self.schema)
        bound = np.abs(alone) * _ROUNDING.get(self.schema.dtype, 0.0)
        if self.schema.scale_column is not None:
            scales_R1 = cells[self.schema.scale_column][:, None]
            bound = np.maximum(bound, scales_R1 * _SMALLEST[self.schema.dtype])
        elif self.schema.dtype == "float16":
            bound = np.maximum(bound, _FLOAT16_STEP)
        apart = (stored - alone, together - alone, bound, alone)
        self._sums += [float(np.square(one.astype(np.float64)).sum()) for one in apart]

    def join(self, other: StateComparison) -> None:
        """Add what was found of other windows."""
        # An array that came from another process may be read-only.
        self._sums = self._sums + other._sums

    def fidelity(self) -> StateFidelity:
        """Return what was found."""
        stored, live, bound, whole = np.sqrt(self._sums).tolist()
        scale = whole or 1.0
        return StateFidelity(
            name=self.schema.name, stored=stored / scale, live=live / scale, bound=bound / scale
        )


def compare_states(
    comparisons: Sequence[StateComparison], window: Window, alone: Selected, together: Selected
) -> None:
    """Compare the states of a window with those of two live passes."""
    own, others = (
        {name: states.float().cpu().numpy() for name, states in one.states().items()}
        for one in (alone, together)
    )
    for one in comparisons:
        one.add(window, own[one.schema.name], others[one.schema.name])
