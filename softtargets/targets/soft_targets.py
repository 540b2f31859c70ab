"""Soft targets in the form people compute with, in plain numpy.

The shape legend of the whole package: T positions, K kept entries, V vocabulary, G temperatures,
P id planes, E escapes, S sampled ids, C classes, R rows and D width of a feature, B batch, L tokens
of a window, M tokens of an encoder's input, N positions of any windows. An array's name carries its
shape: `logits_TK`.

Where nothing else is said, the target at position t is the teacher's distribution of token t + 1,
given tokens 0..t of the same document, and a window of L tokens has T = L - 1 of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from softtargets.errors import TemperatureError
from softtargets.targets.arrays import Array, Float32, Float64, Int32


def temperature_index(temperatures: tuple[float, ...], temperature: float) -> int:
    """Return where `temperature` stands in the grid.

    Raises:
        TemperatureError: it is not in the grid, so the tail mass at it is unknown.
    """
    if temperature not in temperatures:
        raise TemperatureError(
            f"temperature {temperature:g}",
            expected="one of the temperatures stored: "
            + (", ".join(f"{t:g}" for t in temperatures) or "there are none"),
            found="a temperature at which the tail mass is not known",
            next_step="Pass one of those, or build the store again with --temperature "
            f"{temperature:g} added."
            if temperatures
            else "Of such a store tail='renormalize' takes the kept entries for all there is.",
        )
    return temperatures.index(temperature)


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Ids drawn from a teacher's distribution at T positions: S distinct ones with their counts.

    They lie flat, position after position. In each, ids drawn more than once come first; both
    groups are by rising id.
    """

    num_samples_T: Int32
    """How many of the S belong to each position."""
    ids_S: Int32
    counts_S: Int32
    """How often each was drawn."""
    logits_S: Float32 | None = None
    """Their logits before any temperature; None when they are not stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftTargets:
    """What a teacher says at T positions: K entries with their logits, and the mass of the rest.

    A store without entries has K = 0, all mass in the tail and no entry anywhere; what it has
    instead are samples, class logits or features.
    """

    ids_TK: Int32
    """Kept vocabulary ids, by falling logit; equal logits by rising id when captured."""
    logits_TK: Float32
    """Their logits before any temperature; -inf past a position's count."""
    num_entries_T: Int32
    """How many of the K entries are kept; fewer where the teacher has fewer logits above -inf."""
    tail_mass_TG: Float32
    """Probability outside the kept entries at each temperature, in [0, 1]."""
    temperatures: tuple[float, ...]
    """The grid at which the tail mass, or the logsumexp, is known."""
    logsumexp_TG: Float32 | None = None
    """log(sum over the vocabulary of exp(z / T)) where there are no entries it follows from."""
    label_logit_T: Float32 | None = None
    """The logit of the label, which is the token that follows in the document."""
    label_rank_T: Int32 | None = None
    """How many logits of the vocabulary are above the label's."""
    samples: Samples | None = None
    class_logits_TC: Float32 | None = None
    """Logits of every class."""
    features: Mapping[str, Float32] = field(default_factory=dict)
    """Hidden states [R, D] by name; R is the number of tokens, of targets, or 1 for the window."""
    others: Mapping[str, Array] = field(default_factory=dict)
    """What parts of your own hold, by the name of their column."""

    def __len__(self) -> int:
        return len(self.num_entries_T)

    @property
    def parts(self) -> frozenset[str]:
        """Return what there is, as the parts of a schema call it (see `Part.holds`)."""
        found = {
            "head": self.ids_TK.shape[1] > 0,
            "logsumexp": self.logsumexp_TG is not None,
            "samples": self.samples is not None,
            "label logits": self.label_logit_T is not None,
            "label ranks": self.label_rank_T is not None,
            "class logits": self.class_logits_TC is not None,
        }
        names = [name for name, is_there in found.items() if is_there]
        return frozenset([*names, *(f"feature {name}" for name in self.features), *self.others])

    def logprobs_TK(self, temperature: float = 1.0) -> Float32:
        """Return log-probabilities [T, K] in nats; -inf past a position's count.

        The kept entries are normalised to one minus the tail mass, so that entries and tail sum
        to one whatever the rounding of the logits:
        log p_i = z_i / T - logsumexp_K(z / T) + log(1 - tail).

        Raises:
            TemperatureError: the temperature is not in the grid.
        """
        scaled_TK = self.logits_TK.astype(np.float64) / temperature
        return (scaled_TK - self.logsumexp_T(temperature)[:, None]).astype(np.float32)

    def tail_logmass_T(self, temperature: float = 1.0) -> Float32:
        """Return the log of the tail mass [T] in nats; -inf where there is no tail.

        Raises:
            TemperatureError: the temperature is not in the grid.
        """
        with np.errstate(divide="ignore"):
            return np.log(self._tail_T(temperature)).astype(np.float32)

    def logsumexp_T(self, temperature: float = 1.0) -> Float64:
        """Return log(sum over the vocabulary of exp(z / T)), [T].

        With entries it follows from the tail mass: logsumexp_K(z / T) - log(1 - tail).

        Raises:
            TemperatureError: the temperature is not in the grid.
        """
        if self.logsumexp_TG is not None:
            index = temperature_index(self.temperatures, temperature)
            return self.logsumexp_TG[:, index].astype(np.float64)
        tail_T = self._tail_T(temperature)
        scaled_TK = self.logits_TK.astype(np.float64) / temperature
        top_T = scaled_TK[:, 0]
        head_T = top_T + np.log(np.exp(scaled_TK - top_T[:, None]).sum(axis=1))
        return np.asarray(head_T - np.log1p(-tail_T), dtype=np.float64)

    def _tail_T(self, temperature: float) -> Float64:
        index = temperature_index(self.temperatures, temperature)
        return self.tail_mass_TG[:, index].astype(np.float64)
