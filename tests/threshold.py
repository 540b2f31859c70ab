"""Threshold draws in plain numpy, after the definition: the reference of every faster selection."""

from __future__ import annotations

import numpy as np

from softtargets.targets import DrawsSchema, EntriesSchema, Float64, Samples, SoftTargets


def threshold_in_numpy(
    logits_TV: np.ndarray,
    labels_T: np.ndarray,
    uniform_T: np.ndarray,
    head: EntriesSchema,
    draws: DrawsSchema,
    temperatures: tuple[float, ...],
) -> SoftTargets:
    """Return every id of at least 1 / N, the highest in any case, and draws from the others.

    Args:
        logits_TV: of the teacher.
        labels_T: the labels.
        uniform_T: a number in [0, 1) for each position, which decides its draws.
        head: how many entries there can be.
        draws: of which design is "threshold".
        temperatures: the grid.
    """
    wide_TV = logits_TV.astype(np.float64)
    probabilities_TV = _softmax(wide_TV, draws.temperature)
    is_entry_TV = probabilities_TV >= 1 / draws.num_draws
    np.put_along_axis(is_entry_TV, wide_TV.argmax(axis=1)[:, None], True, axis=1)
    tail_mass_TG = np.stack(
        [_softmax(wide_TV, one, ~is_entry_TV).sum(axis=1) for one in temperatures], axis=1
    ).astype(np.float32)
    ids_TK, num_T = _sorted_ids(wide_TV, is_entry_TV, head.max_entries)
    kept_TK = np.arange(head.max_entries) < num_T[:, None]
    logits_TK = np.take_along_axis(logits_TV, ids_TK, axis=1)
    label_logit_T = np.take_along_axis(logits_TV, labels_T[:, None], axis=1)[:, 0]
    return SoftTargets(
        ids_TK=np.where(kept_TK, ids_TK, 0).astype(np.int32),
        logits_TK=np.where(kept_TK, logits_TK, np.float32(-np.inf)),
        num_entries_T=num_T,
        tail_mass_TG=tail_mass_TG,
        temperatures=temperatures,
        label_logit_T=label_logit_T,
        label_rank_T=(logits_TV > label_logit_T[:, None]).sum(axis=1).astype(np.int32),
        samples=_drawn(logits_TV, np.where(is_entry_TV, 0, probabilities_TV), uniform_T, draws),
    )


def _softmax(
    wide_TV: Float64, temperature: float, counted_TV: np.ndarray | None = None
) -> np.ndarray:
    """Return probabilities [T, V], 0 for what is not counted."""
    weights_TV = np.exp((wide_TV - wide_TV.max(axis=1, keepdims=True)) / temperature)
    shares_TV = weights_TV / weights_TV.sum(axis=1, keepdims=True)
    return shares_TV if counted_TV is None else np.where(counted_TV, shares_TV, 0)


def _sorted_ids(
    wide_TV: Float64, is_entry_TV: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the entries' ids [T, K] by falling logit, then others, and how many are entries."""
    num_T = is_entry_TV.sum(axis=1).astype(np.int32)
    assert num_T.max(initial=0) <= most
    own_TV = np.where(is_entry_TV, wide_TV, -np.inf)
    return np.argsort(-own_TV, axis=1, kind="stable")[:, :most], num_T


def _drawn(
    logits_TV: np.ndarray, tail_TV: np.ndarray, uniform_T: np.ndarray, draws: DrawsSchema
) -> Samples:
    """Return the ids where floor(F + u) rises, F being the running sum of N p over the tail."""
    steps_TV = np.floor(np.cumsum(tail_TV * draws.num_draws, axis=1) + uniform_T[:, None])
    position_S, ids_S = np.nonzero((np.diff(steps_TV, axis=1, prepend=0) > 0) & (tail_TV > 0))
    return Samples(
        num_samples_T=np.bincount(position_S, minlength=len(logits_TV)).astype(np.int32),
        ids_S=ids_S.astype(np.int32),
        counts_S=np.ones(len(ids_S), np.int32),
        logits_S=None if draws.values == "none" else logits_TV[position_S, ids_S],
    )
