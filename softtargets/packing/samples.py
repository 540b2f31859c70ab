"""Samples in their compact form: gaps between sorted ids, and counts of those drawn repeatedly.

The ids drawn more than once stand before the ids drawn once, and both runs are sorted, so that an
id costs only its distance to the one before; a run of a position begins as if after id -1. The
counts of the second run are known, and since all counts sum to the number of draws, so is its
length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from softtargets.errors import CorruptionError, InputError
from softtargets.kinds import SampleSchema
from softtargets.targets import Bool, Float32, Int32, Samples

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSamples:
    """The samples of T positions as they are stored; legend in `softtargets.targets`."""

    num_repeated_T: Int32
    """How many ids of a position were drawn more than once."""
    repeated_counts: Int32
    """Their counts, position after position."""
    gaps_S: Int32
    """How many ids lie between a sampled id and the one before it in its run."""
    steps_S: Int32 | None
    """Distance of the logits below the position's top logit, in steps."""
    logits_S: Float32 | None
    """The logits themselves in lossless mode."""
    step: float | None
    """Width of a step in nats; None without steps."""

    def unpack(self, num_draws_T: Int32, top_logit_T: Float32 | None, vocab_size: int) -> Samples:
        """Return the samples to compute with.

        Args:
            num_draws_T: how many draws every position has.
            top_logit_T: the positions' highest logits, which `steps_S` counts from.
            vocab_size: what all ids are below.

        Raises:
            CorruptionError: the columns do not fit each other, or an id is not in the vocabulary.
        """
        num_repeated_T, num_single_T = self._runs(num_draws_T)
        num_samples_T = num_repeated_T + num_single_T
        ends_T = np.cumsum(num_samples_T)
        runs = np.stack([num_repeated_T, num_single_T], axis=1).ravel()
        walk = np.empty(len(self.gaps_S) + 1, np.int64)
        walk[0] = 0
        np.cumsum(self.gaps_S.astype(np.int64) + 1, out=walk[1:])
        ids_S = walk[1:] - np.repeat(walk[np.cumsum(runs) - runs] + 1, runs)
        if len(ids_S) and not (ids_S.min() >= 0 and ids_S.max() < vocab_size):
            raise _out_of_vocabulary(vocab_size, f"from {ids_S.min()} to {ids_S.max()}")
        counts_S = np.ones(len(self.gaps_S), np.int32)
        # The counts of a position stand in a row at its beginning.
        shifts_T = ends_T - num_samples_T - (np.cumsum(num_repeated_T) - num_repeated_T)
        places = np.arange(len(self.repeated_counts)) + np.repeat(shifts_T, num_repeated_T)
        counts_S[places] = self.repeated_counts
        logits_S = self.logits_S
        if self.steps_S is not None:
            assert self.step is not None
            assert top_logit_T is not None
            top_S = np.repeat(top_logit_T, num_samples_T).astype(np.float64)
            logits_S = (top_S - self.steps_S * self.step).astype(np.float32)
        return Samples(
            num_samples_T=num_samples_T.astype(np.int32),
            ids_S=ids_S.astype(np.int32),
            counts_S=counts_S,
            logits_S=logits_S,
        )

    def check(self, num_draws_T: Int32, vocab_size: int) -> None:
        """Check what `unpack` checks, for less: only the highest id of a run is looked at.

        Raises:
            CorruptionError: the columns do not fit each other, or an id is not in the vocabulary.
        """
        runs = np.stack(self._runs(num_draws_T), axis=1).ravel()
        if not len(self.gaps_S):
            return
        # Runs without ids have no sum, and reduceat would give them one.
        own = runs[runs > 0]
        sums = np.add.reduceat(self.gaps_S, np.cumsum(own) - own, dtype=np.int64)
        highest = int((sums + own).max()) - 1
        if self.gaps_S.min() < 0 or highest >= vocab_size:
            raise _out_of_vocabulary(vocab_size, f"gaps from {self.gaps_S.min()}, to {highest}")

    def _runs(self, num_draws_T: Int32) -> tuple[Int64, Int64]:
        """Return how many ids [T] of each position were drawn repeatedly, and how many once.

        Raises:
            CorruptionError: the columns do not fit each other.
        """
        values = [one for one in (self.steps_S, self.logits_S) if one is not None]
        fits = all(len(one) == len(self.gaps_S) for one in values)
        num_repeated_T = self.num_repeated_T.astype(np.int64)
        fits &= bool(num_repeated_T.min(initial=0) >= 0)
        fits &= bool(num_repeated_T.sum() == len(self.repeated_counts))
        if fits:
            drawn = np.cumsum(np.append(0, self.repeated_counts.astype(np.int64)))
            ends_T = np.cumsum(num_repeated_T)
            num_single_T = num_draws_T - (drawn[ends_T] - drawn[ends_T - num_repeated_T])
            num_ids = len(self.repeated_counts) + num_single_T.sum()
            if num_single_T.min(initial=0) >= 0 and num_ids == len(self.gaps_S):
                return num_repeated_T, num_single_T
        raise _corruption(
            "counts that sum to the number of draws, a gap and a logit for every id",
            f"{len(self.repeated_counts)} counts and {len(self.gaps_S)} gaps at "
            f"{len(num_draws_T)} positions",
        )


def pack_samples(
    samples: Samples, schema: SampleSchema, num_draws_T: Int32, top_logit_T: Float32 | None
) -> PackedSamples:
    """Return samples in compact form; the ids of a position may come in any order.

    Raises:
        InputError: a position has an id twice or a negative one, counts do not sum to the number
            of draws, or logits are missing, not finite or above the position's top logit.
    """
    position_S = np.repeat(np.arange(len(samples.num_samples_T)), samples.num_samples_T)
    order_S = np.lexsort((samples.ids_S, samples.counts_S == 1, position_S))
    ids_S, counts_S = samples.ids_S[order_S].astype(np.int64), samples.counts_S[order_S]
    repeats_S = counts_S > 1
    starts_S = np.ones(len(ids_S), np.bool_)
    starts_S[1:] = (position_S[1:] != position_S[:-1]) | (repeats_S[1:] != repeats_S[:-1])
    before_S = np.where(starts_S, -1, np.concatenate([[-1], ids_S[:-1]]))
    gaps_S = ids_S - before_S - 1
    num_positions = len(samples.num_samples_T)
    sums_T = np.bincount(position_S, weights=counts_S, minlength=num_positions)
    for promise, holds in (
        ("counts of at least 1", (counts_S >= 1).all()),
        ("counts that sum to the number of draws at every position", (sums_T == num_draws_T).all()),
        ("ids that are not negative, each once in a run", (gaps_S >= 0).all()),
    ):
        _check(promise, bool(holds))
    steps_S, logits_S = None, None
    if schema.values != "none":
        logits_S = _logits(samples)[order_S]
    if schema.step is not None:
        assert logits_S is not None
        assert top_logit_T is not None
        distance_S = top_logit_T[position_S].astype(np.float64) - logits_S
        limit = np.iinfo(np.int32).max * schema.step
        _check(
            f"logits at most {limit:.3g} nats below the position's highest, and none above it",
            bool(((distance_S >= 0) & (distance_S <= limit)).all()),
        )
        steps_S, logits_S = np.rint(distance_S / schema.step).astype(np.int32), None
    return PackedSamples(
        num_repeated_T=_count(repeats_S, position_S, num_positions),
        repeated_counts=counts_S[repeats_S],
        gaps_S=gaps_S.astype(np.int32),
        steps_S=steps_S,
        logits_S=logits_S,
        step=schema.step,
    )


def highest_logits(samples: Samples) -> Float32:
    """Return the highest of each position's sampled logits [T].

    Raises:
        InputError: there are none, or they are not finite.
    """
    num_positions = len(samples.num_samples_T)
    position_S = np.repeat(np.arange(num_positions), samples.num_samples_T)
    highest_T = np.full(num_positions, -np.inf, np.float32)
    np.maximum.at(highest_T, position_S, _logits(samples))
    return highest_T


def _logits(samples: Samples) -> Float32:
    _check("a logit for every id", samples.logits_S is not None)
    assert samples.logits_S is not None
    _check("finite logits", bool(np.isfinite(samples.logits_S).all()))
    return samples.logits_S


def _count(chosen_S: Bool, position_S: Int64, num_positions: int) -> Int32:
    counts_T = np.bincount(position_S[chosen_S], minlength=num_positions)
    return counts_T.astype(np.int32)


def _out_of_vocabulary(vocab_size: int, found: str) -> CorruptionError:
    return _corruption(f"ids from 0 to {vocab_size - 1}", found)


def _corruption(expected: str, found: str) -> CorruptionError:
    return CorruptionError(
        "samples",
        expected=expected,
        found=found,
        next_step="Restore the store from a copy, or build it again.",
    )


def _check(promise: str, holds: bool) -> None:
    if not holds:
        raise InputError(
            "samples",
            expected=promise,
            found="others",
            next_step="Count the draws of each position, for example with numpy.unique.",
        )
