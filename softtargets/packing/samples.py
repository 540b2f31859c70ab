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

    def unpack(self, num_draws_T: Int32, top_logit_T: Float32 | None) -> Samples:
        """Return the samples to compute with.

        Args:
            num_draws_T: how many draws every position has.
            top_logit_T: the positions' highest logits, which `steps_S` counts from.

        Raises:
            CorruptionError: the columns do not fit each other.
        """
        runs_T2 = self._runs(num_draws_T)
        if runs_T2 is None:
            raise CorruptionError(
                "samples",
                expected="counts that sum to the number of draws, a gap and a logit for every id",
                found=f"{len(self.repeated_counts)} counts and {len(self.gaps_S)} gaps at "
                f"{len(num_draws_T)} positions",
                next_step="Restore the store from a copy, or build it again.",
            )
        runs = runs_T2.ravel()
        ends = np.cumsum(runs)
        walk_S = np.cumsum(self.gaps_S.astype(np.int64) + 1)
        before_run = np.concatenate([[0], walk_S])[ends - runs]
        is_repeated_S = np.repeat(np.tile([True, False], len(runs_T2)), runs)
        counts_S = np.ones(len(self.gaps_S), np.int32)
        counts_S[is_repeated_S] = self.repeated_counts
        num_samples_T = runs_T2.sum(axis=1).astype(np.int32)
        logits_S = self.logits_S
        if self.steps_S is not None:
            assert self.step is not None
            assert top_logit_T is not None
            top_S = np.repeat(top_logit_T, num_samples_T).astype(np.float64)
            logits_S = (top_S - self.steps_S * self.step).astype(np.float32)
        return Samples(
            num_samples_T=num_samples_T,
            ids_S=(walk_S - np.repeat(before_run, runs) - 1).astype(np.int32),
            counts_S=counts_S,
            logits_S=logits_S,
        )

    def fits(self, num_draws_T: Int32) -> bool:
        """Return whether counts sum to the number of draws, with a gap and a logit for each id."""
        return self._runs(num_draws_T) is not None

    def _runs(self, num_draws_T: Int32) -> npt.NDArray[np.int64] | None:
        """Return how many ids [T, 2] of each position were drawn repeatedly, and once."""
        if any(
            len(one) != len(self.gaps_S) for one in (self.steps_S, self.logits_S) if one is not None
        ):
            return None
        num_repeated_T = self.num_repeated_T.astype(np.int64)
        if (num_repeated_T < 0).any() or num_repeated_T.sum() != len(self.repeated_counts):
            return None
        drawn = np.concatenate([[0], np.cumsum(self.repeated_counts, dtype=np.int64)])
        ends_T = np.cumsum(num_repeated_T)
        num_single_T = num_draws_T - (drawn[ends_T] - drawn[ends_T - num_repeated_T])
        runs_T2 = np.stack([num_repeated_T, num_single_T], axis=1)
        fits = (num_single_T >= 0).all() and runs_T2.sum() == len(self.gaps_S)
        return runs_T2 if fits else None


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


def _count(chosen_S: Bool, position_S: npt.NDArray[np.int64], num_positions: int) -> Int32:
    counts_T = np.bincount(position_S[chosen_S], minlength=num_positions)
    return counts_T.astype(np.int32)


def _check(promise: str, holds: bool) -> None:
    if not holds:
        raise InputError(
            "samples",
            expected=promise,
            found="others",
            next_step="Count the draws of each position, for example with numpy.unique.",
        )
