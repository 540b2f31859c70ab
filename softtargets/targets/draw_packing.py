"""Draws in their compact form: gaps between sorted ids, and counts of those drawn repeatedly.

The ids drawn more than once stand before the ids drawn once, and both runs are sorted, so that an
id costs only its distance to the one before; a run of a position begins as if after id -1. The
counts of the second run are known, and since all counts sum to the number of draws, so is its
length.
"""

from __future__ import annotations

import numpy as np

from softtargets.errors import CorruptionError
from softtargets.targets.arrays import Array, Bool, Cells, Float32, Int32, Int64
from softtargets.targets.exact_entries import top_logits
from softtargets.targets.promises import Promise, check
from softtargets.targets.soft_targets import Samples


def pack_draws(
    samples: Samples,
    num_draws_T: Int32,
    top_logit_T: Float32 | None,
    *,
    has_logits: bool,
    step: float | None,
) -> dict[str, Array]:
    """Return draws in compact form, by column; the ids of a position may come in any order.

    Args:
        samples: the draws of T positions.
        num_draws_T: how many draws every position has.
        top_logit_T: the positions' highest logits, which steps count from.
        has_logits: whether the logits of ids are kept.
        step: width of a step in nats; None to keep logits as they are.

    Raises:
        InputError: a position has an id twice or a negative one, counts do not sum to the number
            of draws, or logits are missing, not finite or above the position's top logit.
    """
    num_positions = len(samples.num_samples_T)
    position_S = np.repeat(np.arange(num_positions), samples.num_samples_T)
    order_S = np.lexsort((samples.ids_S, samples.counts_S == 1, position_S))
    ids_S, counts_S = samples.ids_S[order_S].astype(np.int64), samples.counts_S[order_S]
    repeats_S = counts_S > 1
    gaps_S = _gaps(ids_S, position_S, repeats_S)
    _check_counts(counts_S, position_S, gaps_S, num_draws_T)
    cells: dict[str, Array] = {
        "num_repeated": _count(repeats_S, position_S, num_positions),
        "repeated_counts": counts_S[repeats_S],
        "sample_gaps": gaps_S.astype(np.int32),
    }
    if has_logits:
        cells |= pack_logits("sample", samples, order_S, position_S, top_logit_T, step)
    return cells


def _check_counts(counts_S: Int32, position_S: Int64, gaps_S: Int64, num_draws_T: Int32) -> None:
    sums_T = np.bincount(position_S, weights=counts_S, minlength=len(num_draws_T))
    words = "counts that sum to the number of draws at every position"
    check_samples(
        Promise("counts of at least 1", (counts_S >= 1).all()),
        Promise(words, (sums_T == num_draws_T).all()),
        Promise("ids that are not negative, each once in a run", (gaps_S >= 0).all()),
    )


def _gaps(ids_S: Int64, position_S: Int64, repeats_S: Bool) -> Int64:
    """Return how many ids lie between each id and the one before it in its run."""
    starts_S = np.ones(len(ids_S), np.bool_)
    starts_S[1:] = (position_S[1:] != position_S[:-1]) | (repeats_S[1:] != repeats_S[:-1])
    before_S = np.where(starts_S, -1, np.concatenate([[-1], ids_S[:-1]]))
    return ids_S - before_S - 1


def pack_logits(
    prefix: str,
    samples: Samples,
    order_S: Int64,
    position_S: Int64,
    top_logit_T: Float32 | None,
    step: float | None,
) -> dict[str, Array]:
    """Return the drawn ids' logits, as they are or as distances below the top one in steps.

    Args:
        prefix: of the column's name.
        samples: the draws of T positions.
        order_S: the order in which they are stored.
        position_S: the positions, in that order.
        top_logit_T: the positions' highest logits, which steps count from.
        step: width of a step in nats; None to keep logits as they are.

    Raises:
        InputError: logits are missing, not finite or above the position's top logit.
    """
    logits_S = _logits(samples)[order_S]
    if step is None:
        return {f"{prefix}_logits": logits_S}
    assert top_logit_T is not None
    distance_S = top_logit_T[position_S].astype(np.float64) - logits_S
    limit = np.iinfo(np.int32).max * step
    words = f"logits at most {limit:.3g} nats below the position's highest, and none above it"
    check_samples(Promise(words, ((distance_S >= 0) & (distance_S <= limit)).all()))
    return {f"{prefix}_steps": np.rint(distance_S / step).astype(np.int32)}


def unpack_draws(cells: Cells, num_draws_T: Int32, step: float | None, vocab_size: int) -> Samples:
    """Return draws to compute with.

    Args:
        cells: of some positions.
        num_draws_T: how many draws every position has.
        step: width of a step in nats.
        vocab_size: what all ids are below.

    Raises:
        CorruptionError: the columns do not fit each other, or an id is not in the vocabulary.
    """
    num_repeated_T, num_single_T = _runs(cells, num_draws_T)
    gaps_S, repeated_counts = cells["sample_gaps"], cells["repeated_counts"]
    num_samples_T = num_repeated_T + num_single_T
    ends_T = np.cumsum(num_samples_T)
    runs = np.stack([num_repeated_T, num_single_T], axis=1).ravel()
    walk = np.empty(len(gaps_S) + 1, np.int64)
    walk[0] = 0
    np.cumsum(gaps_S.astype(np.int64) + 1, out=walk[1:])
    ids_S = walk[1:] - np.repeat(walk[np.cumsum(runs) - runs] + 1, runs)
    if len(ids_S) and not (ids_S.min() >= 0 and ids_S.max() < vocab_size):
        raise out_of_vocabulary(vocab_size, f"from {ids_S.min()} to {ids_S.max()}")
    counts_S = np.ones(len(gaps_S), np.int32)
    # The counts of a position stand in a row at its beginning.
    shifts_T = ends_T - num_samples_T - (np.cumsum(num_repeated_T) - num_repeated_T)
    places = np.arange(len(repeated_counts)) + np.repeat(shifts_T, num_repeated_T)
    counts_S[places] = repeated_counts
    logits_S = cells.get("sample_logits")
    if step is not None:
        top_S = np.repeat(top_logits(cells, len(num_samples_T)), num_samples_T)
        logits_S = (top_S - cells["sample_steps"] * step).astype(np.float32)
    return Samples(
        num_samples_T=num_samples_T.astype(np.int32),
        ids_S=ids_S.astype(np.int32),
        counts_S=counts_S,
        logits_S=logits_S,
    )


def check_draws(cells: Cells, num_draws_T: Int32, vocab_size: int) -> None:
    """Check what `unpack_draws` checks, for less: only the highest id of a run is looked at.

    Raises:
        CorruptionError: the columns do not fit each other, or an id is not in the vocabulary.
    """
    runs = np.stack(_runs(cells, num_draws_T), axis=1).ravel()
    gaps_S = cells["sample_gaps"]
    if not len(gaps_S):
        return
    # Runs without ids have no sum, and reduceat would give them one.
    own = runs[runs > 0]
    sums = np.add.reduceat(gaps_S, np.cumsum(own) - own, dtype=np.int64)
    highest = int((sums + own).max()) - 1
    if gaps_S.min() < 0 or highest >= vocab_size:
        raise out_of_vocabulary(vocab_size, f"gaps from {gaps_S.min()}, to {highest}")


def highest_logits(samples: Samples) -> Float32:
    """Return the highest of each position's drawn logits [T].

    Raises:
        InputError: there are none, or they are not finite.
    """
    num_positions = len(samples.num_samples_T)
    position_S = np.repeat(np.arange(num_positions), samples.num_samples_T)
    highest_T = np.full(num_positions, -np.inf, np.float32)
    np.maximum.at(highest_T, position_S, _logits(samples))
    return highest_T


def _runs(cells: Cells, num_draws_T: Int32) -> tuple[Int64, Int64]:
    """Return how many ids [T] of each position were drawn repeatedly, and how many once.

    Raises:
        CorruptionError: the columns do not fit each other.
    """
    num_gaps, counts = len(cells["sample_gaps"]), cells["repeated_counts"]
    values = [cells[name] for name in ("sample_steps", "sample_logits") if name in cells]
    fits = all(len(one) == num_gaps for one in values)
    num_repeated_T = cells["num_repeated"].astype(np.int64)
    fits &= bool(num_repeated_T.min(initial=0) >= 0)
    fits &= bool(num_repeated_T.sum() == len(counts))
    if fits:
        drawn = np.cumsum(np.append(0, counts.astype(np.int64)))
        ends_T = np.cumsum(num_repeated_T)
        num_single_T = num_draws_T - (drawn[ends_T] - drawn[ends_T - num_repeated_T])
        num_ids = len(counts) + num_single_T.sum()
        if num_single_T.min(initial=0) >= 0 and num_ids == num_gaps:
            return num_repeated_T, num_single_T
    raise corruption(
        "counts that sum to the number of draws, a gap and a logit for every id",
        f"{len(counts)} counts and {num_gaps} gaps at {len(num_draws_T)} positions",
    )


def _logits(samples: Samples) -> Float32:
    check_samples(Promise("a logit for every id", samples.logits_S is not None))
    assert samples.logits_S is not None
    check_samples(Promise("finite logits", np.isfinite(samples.logits_S).all()))
    return samples.logits_S


def _count(chosen_S: Bool, position_S: Int64, num_positions: int) -> Int32:
    counts_T = np.bincount(position_S[chosen_S], minlength=num_positions)
    return counts_T.astype(np.int32)


def check_samples(*promises: Promise) -> None:
    """Check what is to be packed.

    Raises:
        InputError: a promise does not hold.
    """
    advice = "Count the draws of each position, for example with numpy.unique."
    check(promises, "samples", next_step=advice)


def out_of_vocabulary(vocab_size: int, found: str) -> CorruptionError:
    """Return the error of ids that are none."""
    return corruption(f"ids from 0 to {vocab_size - 1}", found)


def corruption(expected: str, found: str) -> CorruptionError:
    """Return the error of draws that cannot be unpacked."""
    return CorruptionError(
        "samples",
        expected=expected,
        found=found,
    )
