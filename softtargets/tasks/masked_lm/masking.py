"""Masks as a pure function of content, seed and copy.

Shapes: L tokens of a window without its special tokens, C of these that may be masked, T of these
that are, W ids of the vocabulary, P of these that may take a token's place.

Numbers come from a counter-based generator (Philox, Salmon et al. 2011), keyed by the hash of the
window's content, with copy and seed in its counter. So neither order nor workers nor a crash change
a mask. How many tokens are masked, by what rule and by what they are replaced is that of BERT
(Devlin et al. 2019, appendix A.1), and the weights are those of DistilBERT (Sanh et al. 2019).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from softtargets.targets import Bool, Float64, Int32

MASKED, RANDOM = 0.8, 0.1
"""The shares of chosen tokens that the mask token takes the place of, and a random one. The rest
stay as they are."""
_WEIGHT_POWER = -0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedTokens:
    """A window's tokens after masking."""

    input_ids_L: Int32
    """As teacher and student read them."""
    positions_T: Int32
    """Which tokens were chosen, rising."""
    label_ids_T: Int32
    """What stood there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """Chooses tokens and replaces them."""

    probability: float
    """Share of the tokens that are chosen."""
    seed: int
    mask_id: int
    replacements_P: Int32
    """Ids that may take the place of a token at random."""
    starts_word_W: Bool | None = None
    """Which ids begin a word, so that words are chosen whole; None to choose single tokens."""
    weights_W: Float64 | None = None
    """How readily each id is chosen, relative to others; None for all alike."""

    def mask(self, ids_L: Int32, may_L: Bool, content: str, copy: int) -> MaskedTokens:
        """Return a window's tokens with some of them chosen and replaced.

        With n tokens that may be chosen, probability * n are, rounded up or down at random so that
        this is their mean, and one at least. Of each the replacement is decided by itself.

        Args:
            ids_L: the tokens.
            may_L: which of them may be chosen; one at least.
            content: hash of the window, hexadecimal.
            copy: which of its maskings this is.
        """
        philox = np.random.Philox(key=int(content, 16), counter=[0, 0, copy, self.seed])
        rng = np.random.Generator(philox)
        places_C = np.flatnonzero(may_L).astype(np.int32)
        number = max(1, int(self.probability * len(places_C) + rng.random()))
        uniforms_C3 = rng.random((len(places_C), 3))
        chosen_T = self._choose(ids_L, places_C, uniforms_C3[:, 0], number)
        input_ids_L = ids_L.copy()
        positions_T = places_C[chosen_T]
        kind_T, which_T = uniforms_C3[chosen_T, 1], uniforms_C3[chosen_T, 2]
        random_T = self.replacements_P[(which_T * len(self.replacements_P)).astype(np.int64)]
        is_random_T = (kind_T >= MASKED) & (kind_T < MASKED + RANDOM)
        input_ids_L[positions_T[is_random_T]] = random_T[is_random_T]
        input_ids_L[positions_T[kind_T < MASKED]] = self.mask_id
        return MaskedTokens(
            input_ids_L=input_ids_L, positions_T=positions_T, label_ids_T=ids_L[positions_T]
        )

    def _choose(self, ids_L: Int32, places_C: Int32, uniforms_C: Float64, number: int) -> Int32:
        """Return which of the C tokens are chosen, rising.

        It is weighted sampling without replacement: the first of exponential times, whose rates are
        the weights (Efraimidis and Spirakis 2006).
        """
        times_C = -np.log1p(-uniforms_C)
        if self.weights_W is not None:
            times_C /= self.weights_W[ids_L[places_C]]
        if self.starts_word_W is None:
            chosen_T = np.argsort(times_C, kind="stable")[:number].astype(np.int32)
        else:
            starts_C = self.starts_word_W[ids_L[places_C]]
            starts_C |= np.diff(places_C, prepend=-2) > 1
            chosen_T = _whole_words(starts_C, times_C, number)
        return np.sort(chosen_T)


def _whole_words(starts_C: Bool, times_C: Float64, number: int) -> Int32:
    """Return the tokens of the first words, by the times of their first tokens.

    A word with more tokens than are still to be chosen is passed over, unless none is chosen yet.
    """
    bounds = [*np.flatnonzero(starts_C).tolist(), len(starts_C)]
    order = np.argsort(times_C[bounds[:-1]], kind="stable").tolist()
    chosen: list[int] = []
    for word in order:
        own = range(bounds[word], bounds[word + 1])
        if not chosen or len(chosen) + len(own) <= number:
            chosen += own
        if len(chosen) >= number:
            break
    return np.array(chosen, np.int32)


def token_weights(documents: Iterable[Int32], num_ids: int, special_ids: Iterable[int]) -> Float64:
    """Return DistilBERT's weight of each id: max(count, 1)^-0.7, and 0 of special ones.

    Args:
        documents: the ids of each.
        num_ids: how many ids there are.
        special_ids: which are never chosen.
    """
    counts_W = np.zeros(num_ids, np.int64)
    for ids_L in documents:
        counts_W += np.bincount(ids_L, minlength=num_ids)
    weights_W = np.maximum(counts_W, 1).astype(np.float64) ** _WEIGHT_POWER
    weights_W[list(special_ids)] = 0
    return np.asarray(weights_W)
