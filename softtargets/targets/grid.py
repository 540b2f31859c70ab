"""The grid: what the whole vocabulary sums to at each temperature, as tail mass or as logsumexp.

A tail mass R may be kept as its log-odds, log(R / (1 - R)), in steps. With an error of at most
step / 2 there, neither log R nor log(1 - R) is off by more: their slopes are 1 - R and R.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from softtargets.targets.arrays import Array, Bool, Cells, Columns, Float32, Float64, Int32, Offsets
from softtargets.targets.evidence import Evidence
from softtargets.targets.part import FINITE, LARGEST_INT, Column, Fault, Part, Range, outside
from softtargets.targets.promises import Promise, Promises, check
from softtargets.targets.soft_targets import SoftTargets

_BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
_MASS = Range(0, _BELOW_ONE, "a mass from 0 to below 1")
_LOWEST_ODDS, _HIGHEST_ODDS = np.log(2.0**-149), np.log(2.0**24 - 1)
"""Of the smallest and the largest tail mass above 0 that float32 holds."""
NO_TAIL = int(np.iinfo(np.int32).min)
"""What stands for a tail without mass among log-odds in steps."""


@dataclass(frozen=True, slots=True)
class Grid(Part):
    """The temperatures at which targets are known."""

    temperatures: tuple[float, ...]
    has_entries: bool
    """Whether it is the tail mass beside them that is stored, or the logsumexp without any."""
    step: float | None = None
    """Width of the steps of log-odds; None where tail masses are stored as they are."""

    @property
    def stored_names(self) -> tuple[str, ...]:
        """Return the names of the columns, in the grid's order."""
        return self.names if self.step is None else _names("tail_odds", self.temperatures)

    @property
    def names(self) -> tuple[str, ...]:
        """Return what the numbers themselves are called, in the grid's order."""
        return _names("tail_mass" if self.has_entries else "logsumexp", self.temperatures)

    def columns(self) -> Sequence[Column]:
        """Return a column for each temperature."""
        if self.step is not None:
            words = "log-odds of the probability outside the kept entries, in steps"
            return [
                Column(name, "int32", "targets", words, is_split=True, is_tight=True)
                for name in self.stored_names
            ]
        if self.has_entries:
            words = "probability outside the kept entries at this temperature"
        else:
            words = "logsumexp over the vocabulary at this temperature"
        within, fill = (_MASS, 1) if self.has_entries else (FINITE, 0)
        return [
            Column(name, "float32", "targets", words, within=within, fill=fill)
            for name in self.names
        ]

    def exactness(self, imported: Mapping[str, Any] | None) -> Iterator[str]:
        """Yield at which temperatures the targets are known."""
        if self.temperatures and imported is not None:
            yield (
                "The probability outside the kept entries is what the imported ones leave of 1, "
                f"within {imported['tail_mass_error']:.1g}. At other temperatures it is unknown."
            )
        elif self.temperatures:
            what = "probability outside the kept entries" if self.has_entries else "logsumexp"
            yield (
                f"The {what} at each temperature is that of the whole vocabulary, computed before "
                "anything was rounded. At other temperatures it is unknown."
            )
            if self.step is not None:
                yield (
                    f"Its log-odds are then rounded to {self.step:g} nat: its logarithm and that "
                    f"of what it leaves are off by at most {self.step / 2:g}."
                )
        elif self.has_entries:
            yield "What is outside the kept entries is unknown: they give no probabilities."

    @property
    def holds(self) -> Sequence[str]:
        """Return what `SoftTargets.parts` calls a logsumexp; a tail mass is always there."""
        return ("logsumexp",) if self.temperatures and not self.has_entries else ()

    def fits(self) -> Promises:
        """Yield that no column is there twice, and that steps are of tail masses."""
        is_sound = len(set(self.names)) == len(self.names)
        yield Promise("temperatures that differ in 6 digits", is_sound)
        words = "steps of the grid only beside a head"
        yield Promise(words, self.step is None or self.has_entries)

    def pack(self, targets: SoftTargets) -> dict[str, Array]:
        """Return a cell for each temperature.

        Raises:
            InputError: tail masses to be kept in steps are not in [0, 1).
        """
        grid_TG = targets.tail_mass_TG if self.has_entries else targets.logsumexp_TG
        return {} if grid_TG is None else self.cells_of(grid_TG)

    def cells_of(self, grid_TG: Float32) -> dict[str, Array]:
        """Return the cells of tail masses or logsumexps.

        Raises:
            InputError: tail masses to be kept in steps are not in [0, 1).
        """
        return {name: self._stored(grid_TG[:, g]) for g, name in enumerate(self.stored_names)}

    def unpack(self, cells: Cells) -> dict[str, Any]:
        """Return the tail mass or the logsumexp [T, G]."""
        if not self.temperatures:
            return {}
        names = self.stored_names
        grid_TG = np.empty((len(cells[names[0]]), len(names)), np.float32)
        for index in range(len(names)):
            grid_TG[:, index] = self.numbers_T(cells, index)
        return {"tail_mass_TG" if self.has_entries else "logsumexp_TG": grid_TG}

    def numbers_T(self, cells: Cells, index: int) -> Float32:
        """Return the tail mass or the logsumexp [T] at a temperature of the grid."""
        stored_T = cells[self.stored_names[index]]
        if self.step is not None:
            return _masses(stored_T, self.step)
        return np.asarray(stored_T, np.float32)

    def faults(self, columns: Columns, offsets: Offsets) -> Iterator[Fault]:
        """Find log-odds of masses that float32 cannot hold."""
        if self.step is None:
            return
        low = round(max(_LOWEST_ODDS / self.step, NO_TAIL + 1))
        high = round(min(_HIGHEST_ODDS / self.step, LARGEST_INT))
        for name in self.stored_names:
            odds = columns[name]
            is_sound: Bool = (odds == NO_TAIL) | ((odds >= low) & (odds <= high))
            yield from outside(
                odds, is_sound, offsets, name, f"log-odds from {low} to {high} steps, or {NO_TAIL}"
            )

    def for_batches(
        self, columns: Columns, offsets: Offsets, where: str
    ) -> tuple[Columns, Offsets]:
        """Return the columns of some rows with tail masses instead of their log-odds."""
        if self.step is None:
            return columns, offsets
        others = {name: values for name, values in columns.items() if name not in self.stored_names}
        masses = {name: self.numbers_T(columns, g) for g, name in enumerate(self.names)}
        return {**others, **masses}, {
            **{name: offsets[name] for name in others},
            **dict.fromkeys(masses, offsets["mask"]),
        }

    def _stored(self, numbers_T: Float32) -> Array:
        return numbers_T if self.step is None else _odds(numbers_T, self.step)

    def contradictions(self, evidence: Evidence) -> Promises:
        """Yield what sums must be by entries, and by each other."""
        if not self.has_entries:
            yield from _logsumexp_promises(evidence)
        elif evidence.origin.is_tail_exact:
            yield from _tail_promises(evidence)


def _odds(mass_T: Float32, step: float) -> Int32:
    """Return the log-odds of masses in steps.

    Raises:
        InputError: a mass is not in [0, 1), or its log-odds have too many steps.
    """
    wide_T: Float64 = mass_T.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps_T = np.rint((np.log(wide_T) - np.log1p(-wide_T)) / step)
    is_mass_T = (mass_T >= 0) & (mass_T < 1)
    promises = (
        Promise("tail masses from 0 to below 1", is_mass_T),
        Promise("steps that 32 bits count", (np.abs(steps_T) <= LARGEST_INT) | (mass_T == 0)),
    )
    next_step = "Compute them over the whole vocabulary, outside the kept entries."
    check(iter(promises), "tail masses", next_step=next_step)
    steps_T[wide_T == 0] = NO_TAIL
    return steps_T.astype(np.int32)


def _masses(odds_T: Int32, step: float) -> Float32:
    """Return the masses whose log-odds are so many steps."""
    # No mass that float32 holds is 2^1023 times as unlikely as not, so nothing overflows.
    exponent_T = np.minimum(odds_T * -step, 709.0)
    mass_T: Float32 = (1 / (1 + np.exp(exponent_T))).astype(np.float32)
    mass_T[odds_T == NO_TAIL] = 0
    return mass_T


@cache
def _names(what: str, temperatures: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(f"{what}_t{temperature_text(one)}" for one in temperatures)


def temperature_text(temperature: float) -> str:
    """Return a temperature as it stands in a column's name: 0.5 is 0_5."""
    return f"{temperature:g}".replace(".", "_")


def _tail_promises(evidence: Evidence) -> Promises:
    """Yield what tail masses must be by the entries, and by each other.

    A weight is at most 1, and outside the highest entries at most the lowest entry's. With a power
    a = T2 / T1 > 1, the weights at T1 are those at T2 to the a: as these are at most 1 their sum
    rises with T, and by the inequality of power means W(T1) is at least W(T2)^a / N^(a - 1), N
    being the number of ids in the tail. The odds of a tail below every entry rise with T, too.
    """
    outside_T = evidence.vocab_size - evidence.num_entries_T
    highest_T = evidence.lowest_T if evidence.origin.keeps_highest else evidence.top_T
    temperatures = sorted(evidence.targets.temperatures)
    weights = {one: evidence.tail_weight_T(one) for one in temperatures}
    for temperature, (weight_T, factor_T) in weights.items():
        most_T = outside_T * np.exp((highest_T - evidence.top_T) / temperature)
        yield Promise(
            f"a tail mass at temperature {temperature:g} that ids below the entries can have",
            evidence.is_at_most(weight_T, most_T, factor_T**2),
        )
    for low, high in pairwise(temperatures):
        power = high / low
        (low_T, low_factor_T), (high_T, high_factor_T) = weights[low], weights[high]
        factor_T = low_factor_T * high_factor_T
        rises_T = evidence.is_at_most(low_T, high_T, factor_T, evidence.lost)
        if evidence.origin.keeps_highest:
            odds = [evidence.odds_T(one) for one in (low, high)]
            factor_T = np.exp(evidence.odds_error_T(low) + evidence.odds_error_T(high))
            rises_T &= evidence.is_at_most(odds[0], odds[1], factor_T, evidence.lost)
        yield Promise(f"a tail mass that rises from temperature {low:g} to {high:g}", rises_T)
        spread_T = high_T / np.maximum(outside_T, 1)
        least_T = outside_T * (spread_T / high_factor_T) ** power
        yield Promise(
            f"tail masses of one distribution at temperatures {low:g} and {high:g}",
            evidence.is_at_most(least_T, low_T, low_factor_T, evidence.lost),
        )


def _logsumexp_promises(evidence: Evidence) -> Promises:
    """Yield what the logsumexps must be, without a head, by each other and by the label.

    T lse(T) is the logarithm of a norm that rises with T, and T (lse(T) - log V) that of a power
    mean that falls with it.
    """
    grid, sums_TG = evidence.targets.temperatures, evidence.targets.logsumexp_TG
    if sums_TG is None:
        return
    lse = {one: sums_TG[:, grid.index(one)].astype(np.float64) for one in grid}
    error = {one: evidence.mass_error_T(one, lse[one] * one) for one in grid}
    width = np.log(evidence.vocab_size)
    for low, high in pairwise(sorted(grid)):
        error_T = low * error[low] + high * error[high]
        rises_T = low * lse[low] <= high * lse[high] + error_T
        falls_T = high * (lse[high] - width) <= low * (lse[low] - width) + error_T
        yield Promise(
            f"logsumexps of one distribution at temperatures {low:g} and {high:g}",
            rises_T & falls_T,
        )
    if evidence.has_labels:
        for temperature in grid:
            above_T = np.log(evidence.label_rank_T + 1) + evidence.label_logit_T / temperature
            yield Promise(
                f"a logsumexp at temperature {temperature:g} that holds the label, and what is "
                "above it",
                above_T <= lse[temperature] + error[temperature],
            )
