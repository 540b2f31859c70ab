"""Distributions of one number over many targets: counted in bins, in bounded memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from softtargets.targets import Float64

Counts = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.floating]


class Distribution:
    """How often a number falls between edges, and its mean.

    A bin has its lower edge and not its upper one. What is below the first edge, and what is not
    below the last, is counted at either end and belongs to the mean.

    Args:
        edges: [N + 1], rising.
    """

    def __init__(self, edges: Float64) -> None:
        self.edges = edges
        self.counts: Counts = np.zeros(len(edges) - 1, np.int64)
        self.num_below = 0
        self.num_above = 0
        self._sum = 0.0

    def add(self, values: Numbers) -> None:
        """Count numbers; none of them may be NaN."""
        assert not np.isnan(values).any()
        places = np.searchsorted(self.edges, values, side="right")
        counts = np.bincount(places, minlength=len(self.edges) + 1)
        self.num_below += int(counts[0])
        self.counts += counts[1:-1]
        self.num_above += int(counts[-1])
        self._sum += float(values.sum(dtype=np.float64))

    @property
    def num_values(self) -> int:
        """Return how many numbers were counted."""
        return self.num_below + int(self.counts.sum()) + self.num_above

    @property
    def mean(self) -> float:
        """Return the mean; infinite if a number was. There must have been one."""
        return self._sum / self.num_values


def decades(lowest: int, highest: int, per_decade: int) -> Float64:
    """Return edges that are evenly spread on a log scale, from 10^lowest to 10^highest."""
    count = (highest - lowest) * per_decade + 1
    return np.asarray(10.0 ** np.linspace(lowest, highest, count))


def evenly_spread(num: int, most: int) -> npt.NDArray[np.int64]:
    """Return at most `most` of the places 0..num - 1, each in the middle of an equal share."""
    count = min(num, most)
    return (2 * np.arange(count, dtype=np.int64) + 1) * num // (2 * count)
