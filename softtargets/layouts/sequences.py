"""What trainers of other people read a row at a time: one document's tokens, with dense entries.

A window in which several documents stand becomes a row for each: the teacher read them apart, and
these layouts have no place to say so within a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal

import numpy as np

from softtargets.errors import InputError
from softtargets.store.store import Store
from softtargets.targets import Bool, Float64, Int32, SoftTargets, TargetSchema, temperature_index
from softtargets.window import Window

Values = Literal["renormalised", "full"]
"""Log-probabilities over the kept entries alone, or of the whole vocabulary's softmax."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """L tokens of one document, and the T = L - 1 targets between them."""

    input_ids_L: Int32
    mask_T: Bool
    """Which targets a student is trained on; false where there is none."""
    ids_TK: Int32
    """0 where there is no entry."""
    logprobs_TK: Float64
    """At one temperature; -inf where there is no entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntriesView:
    """What of a store's entries a layout gets."""

    temperature: float
    values: Values
    top_k: int
    """How many entries every position has, absent ones included."""

    def sequences(self, windows: Sequence[Window]) -> Iterator[TokenSequence]:
        """Yield the documents of windows; a document of one token has no target and is left out.

        Raises:
            TemperatureError: the temperature is not in the store's grid.
        """
        for window in windows:
            ids_TK, logprobs_TK, mask_T = self._dense(window)
            ends = np.cumsum([0, *window.segment_lengths_S])
            for start, stop in pairwise(ends.tolist()):
                if stop - start > 1:
                    own = slice(start, stop - 1)
                    yield TokenSequence(
                        input_ids_L=window.input_ids_L[start:stop],
                        mask_T=mask_T[own],
                        ids_TK=ids_TK[own],
                        logprobs_TK=logprobs_TK[own],
                    )

    def _dense(self, window: Window) -> tuple[Int32, Float64, Bool]:
        """Return ids, log-probabilities and mask of all positions but the last, listed or not."""
        targets, num = window.targets, len(window) - 1
        at_T = window.target_positions_T
        ids_TK = np.zeros((num, self.top_k), np.int32)
        logprobs_TK = np.full((num, self.top_k), -np.inf)
        mask_T = np.zeros(num, np.bool_)
        kept_TK = np.isfinite(targets.logits_TK[:, : self.top_k])
        ids_TK[at_T] = np.where(kept_TK, targets.ids_TK[:, : self.top_k], 0)
        logprobs_TK[at_T] = self._logprobs(targets)
        mask_T[at_T] = window.mask_T
        return ids_TK, logprobs_TK, mask_T

    def _logprobs(self, targets: SoftTargets) -> Float64:
        if self.values == "full":
            return targets.logprobs_TK(self.temperature)[:, : self.top_k].astype(np.float64)
        if targets.temperatures:
            temperature_index(targets.temperatures, self.temperature)
        scaled_TK = targets.logits_TK[:, : self.top_k].astype(np.float64) / self.temperature
        below_TK = scaled_TK - scaled_TK[:, :1]
        normalised: Float64 = below_TK - np.log(np.exp(below_TK).sum(axis=1, keepdims=True))
        return normalised


def batched(sequences: Iterable[TokenSequence], size: int) -> Iterator[list[TokenSequence]]:
    """Yield so many sequences at a time; the last time fewer."""
    iterator = iter(sequences)
    while some := list(islice(iterator, size)):
        yield some


def view_entries(
    store: Store, temperature: float, values: Values, top_k: int | None, *, without_draws: bool
) -> EntriesView:
    """Return how a store's entries go into a layout that knows nothing else.

    Raises:
        InputError: the store has no entries of the next token, or draws that would be left out, or
            fewer entries than `top_k`.
        TemperatureError: the temperature is not in the store's grid.
    """
    schema = store.targets
    _check_entries(schema, f"{store.location}", without_draws=without_draws)
    assert schema.head is not None
    if schema.temperatures or values == "full":
        temperature_index(schema.temperatures, temperature)
    kept = schema.head.max_entries if top_k is None else top_k
    if not 1 <= kept <= schema.head.max_entries:
        raise InputError(
            "top_k",
            expected=f"1 to {schema.head.max_entries} entries, as the store has",
            found=f"{kept}",
            next_step="Pass fewer, or omit it.",
        )
    return EntriesView(temperature=temperature, values=values, top_k=kept)


def _check_entries(schema: TargetSchema, where: str, *, without_draws: bool) -> None:
    if schema.head is None or not schema.convention.labels_are_inputs or schema.encoder_input:
        raise InputError(
            where,
            expected="targets of a decoder's next token with a head of exact entries",
            found=schema.describe(),
            next_step="These layouts hold nothing else; --to plain holds every store.",
        )
    if schema.samples is not None and not without_draws:
        raise InputError(
            where,
            expected="targets without draws, which have no place in these layouts",
            found=schema.describe(),
            next_step="Pass --without-draws to export the head alone: its top-k targets are "
            "biased, which the draws are there to undo. Or export --to plain.",
        )
