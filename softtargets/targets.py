"""Soft targets in the form people compute with, in plain numpy.

The shape legend of the whole package: T positions, K kept entries, V vocabulary, G temperatures,
P id planes, E escapes, B batch, L tokens of a window, N positions of any windows. An array's name
carries its shape: `logits_TK`.

The target at position t is the teacher's distribution of token t + 1, given tokens 0..t of the
same document. A window of L tokens has T = L - 1 of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from softtargets.errors import TemperatureError

Bool = npt.NDArray[np.bool_]
UInt8 = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def temperature_index(temperatures: tuple[float, ...], temperature: float) -> int:
    """Return where `temperature` stands in the grid.

    Raises:
        TemperatureError: it is not in the grid, so the tail mass at it is unknown.
    """
    if temperature not in temperatures:
        raise TemperatureError(
            f"temperature {temperature:g}",
            expected=f"one of the temperatures stored: {', '.join(f'{t:g}' for t in temperatures)}",
            found="a temperature at which the tail mass is not known",
            next_step="Pass one of those, or build the store again with --temperature "
            f"{temperature:g} added.",
        )
    return temperatures.index(temperature)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftTargets:
    """What a teacher says at T positions: K entries with their logits, and the mass of the rest."""

    ids_TK: Int32
    """Kept vocabulary ids, by falling logit; equal logits by rising id when captured."""
    logits_TK: Float32
    """Their logits before any temperature; -inf past a position's count."""
    num_entries_T: Int32
    """How many of the K entries are kept; fewer where the teacher has fewer logits above -inf."""
    tail_mass_TG: Float32
    """Probability outside the kept entries at each temperature, in [0, 1]."""
    label_logit_T: Float32
    """The logit of the token that follows in the document."""
    label_rank_T: Int32
    """How many logits of the vocabulary are above the label's."""
    temperatures: tuple[float, ...]
    """The grid at which the tail mass is known."""

    def __len__(self) -> int:
        return len(self.num_entries_T)

    def logprobs_TK(self, temperature: float = 1.0) -> Float32:
        """Return log-probabilities [T, K] in nats; -inf past a position's count.

        The kept entries are normalised to one minus the tail mass, so that head and tail sum to
        one whatever the rounding of the logits:
        log p_i = z_i / T - logsumexp_K(z / T) + log(1 - tail).

        Raises:
            TemperatureError: the temperature is not in the grid.
        """
        return (self.logits_TK / temperature - self.logsumexp_T(temperature)[:, None]).astype(
            np.float32
        )

    def tail_logmass_T(self, temperature: float = 1.0) -> Float32:
        """Return the log of the tail mass [T] in nats; -inf where there is no tail.

        Raises:
            TemperatureError: the temperature is not in the grid.
        """
        with np.errstate(divide="ignore"):
            return np.log(self._tail_T(temperature)).astype(np.float32)

    def logsumexp_T(self, temperature: float = 1.0) -> Float64:
        """Return log(sum over the vocabulary of exp(z / T)), [T].

        It follows from the tail mass: logsumexp_K(z / T) - log(1 - tail).

        Raises:
            TemperatureError: the temperature is not in the grid.
        """
        tail_T = self._tail_T(temperature)
        scaled_TK = self.logits_TK.astype(np.float64) / temperature
        top_T = scaled_TK[:, 0]
        head_T = top_T + np.log(np.exp(scaled_TK - top_T[:, None]).sum(axis=1))
        return np.asarray(head_T - np.log1p(-tail_T), dtype=np.float64)

    def _tail_T(self, temperature: float) -> Float64:
        index = temperature_index(self.temperatures, temperature)
        return self.tail_mass_TG[:, index].astype(np.float64)
