"""By how much stored features are off what a teacher gave, measured as they are written."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from softtargets.store.shard_table import ShardEntry
from softtargets.targets import Float32

_KEY = "rounding"
"""Of `ShardEntry.run`, in the records of units; the manifest has it of the whole store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundingError:
    """How far some vectors are from what they were."""

    squares: float = 0.0
    """The sum of the squared differences of their numbers."""
    total: float = 0.0
    """The sum of the squares of the numbers."""
    largest: float = 0.0
    """The largest difference."""

    @classmethod
    def of(cls, values_RD: Float32, stored_RD: Float32) -> RoundingError:
        """Return how far stored vectors are from a teacher's."""
        apart_RD = np.abs(stored_RD.astype(np.float64) - values_RD)
        return cls(
            squares=float(np.square(apart_RD).sum()),
            total=float(np.square(values_RD.astype(np.float64)).sum()),
            largest=float(apart_RD.max(initial=0)),
        )

    def __add__(self, other: RoundingError) -> RoundingError:
        return RoundingError(
            squares=self.squares + other.squares,
            total=self.total + other.total,
            largest=max(self.largest, other.largest),
        )

    def to_dict(self) -> dict[str, float]:
        """Return what the manifest says: the root of squares / total, and the largest."""
        relative = (self.squares / self.total) ** 0.5 if self.total else 0.0
        return {"relative": relative, "largest": self.largest}


def noted(run: Mapping[str, Any], errors: Mapping[str, RoundingError]) -> Mapping[str, Any]:
    """Return how a unit was run with the errors of its features, if there are any."""
    if not errors:
        return run
    own = {name: [one.squares, one.total, one.largest] for name, one in errors.items()}
    return {**run, _KEY: own}


def without_rounding(entry: ShardEntry) -> ShardEntry:
    """Return the entry of a shard without errors, which its record alone has."""
    if _KEY not in entry.run:
        return entry
    return replace(entry, run={name: one for name, one in entry.run.items() if name != _KEY})


class RoundingSums:
    """The errors of all units together, by feature, whichever order the units come in."""

    def __init__(self) -> None:
        self._units: dict[str, array[int]] = {}
        self._errors: dict[str, array[float]] = {}

    def add(self, entry: ShardEntry) -> None:
        """Add what the record of a unit has."""
        for name, errors in entry.run.get(_KEY, {}).items():
            self._units.setdefault(name, array("q")).append(entry.unit)
            self._errors.setdefault(name, array("d")).extend(errors)

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Return what the manifest has: the same numbers, to the last bit, whatever the order."""
        found = {}
        for name in sorted(self._units, key=lambda name: min(self._units[name])):
            order = np.argsort(np.frombuffer(self._units[name], np.int64))
            errors = np.frombuffer(self._errors[name], np.float64).reshape(-1, 3)[order]
            # One after the other: `sum` adds in pairs.
            squares, total, _ = errors.cumsum(axis=0)[-1].tolist()
            largest = float(errors[:, 2].max())
            found[name] = RoundingError(squares=squares, total=total, largest=largest).to_dict()
        return found


def merged_rounding(
    found: Sequence[Mapping[str, Mapping[str, float]]],
) -> dict[str, dict[str, float]]:
    """Return the worst of what stores say of each feature that all of them say something of."""
    first = found[0]
    return {
        name: {number: max(one[name][number] for one in found) for number in first[name]}
        for name in first
        if all(name in one for one in found)
    }
