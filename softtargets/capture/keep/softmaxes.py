"""Which softmaxes over the vocabulary a grid of temperatures needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Served(NamedTuple):
    """A softmax, which serves one temperature of the grid or two.

    Probabilities at T / 2 are the squares of those at T, but for a factor that all share.
    """

    temperature: float
    serves_half: bool
    """Whether its squares are to serve half the temperature."""

    def powers(self) -> dict[float, int]:
        """Return, for each temperature, to which power the weights are in proportion to it."""
        return {self.temperature: 1} | ({self.temperature / 2: 2} if self.serves_half else {})


def softmaxes_of(temperatures: Sequence[float], first: float | None = None) -> list[Served]:
    """Return the softmaxes that a grid needs, the first of which serves `first` if it is given."""
    pending = sorted(temperatures)
    if first is not None:
        first = 2 * first if 2 * first in pending else first
        pending = [*(one for one in pending if one != first), first]
    found = []
    while pending:
        temperature = pending.pop()
        serves_half = temperature / 2 in pending
        if serves_half:
            pending.remove(temperature / 2)
        found.append(Served(temperature, serves_half))
    return found
