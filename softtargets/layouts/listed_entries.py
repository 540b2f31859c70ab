"""Entries of foreign rows, checked by what is stated of them, and made windows.

Shapes: L tokens, T = L - 1 targets, E entries of all targets, K entries of a target.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softtargets.layouts.listed_rows import ListedRow
from softtargets.layouts.stated import Stated
from softtargets.targets import (
    Bool,
    Float32,
    Float64,
    Int64,
    SoftTargets,
    TargetSchema,
    kept_entries,
    pack,
)
from softtargets.window import TokenWindow, Window, hash_window

SOFTMAX_ERROR = 1e-5
"""How far probabilities of a softmax computed in float32 sum from what they should, at most."""

_LARGEST = 2.0**25
"""Of a logit: neighbours further apart could not be counted in steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """The entries of T targets, by target and falling value, and what is left for other ids."""

    counts_T: Int64
    target_E: Int64
    ids_E: Int64
    logits_E: Float32
    tail_mass_T: Float64 | None
    """None where it is not known."""


def tail_mass_error(rounding: float, num_entries: int) -> float:
    """Return how far 1 - sum(p) is from the tail's mass, at most, when p = exp(rounded log p).

    An error of `rounding` |log p| in log p is one of p |log p| `rounding` in p, and the sum of
    p |log p| is at most log K + 1 / e.
    """
    return float(SOFTMAX_ERROR + rounding * (np.log(max(1, num_entries)) + 1))


def read_entries(row: ListedRow, stated: Stated) -> Entries:
    """Return a row's entries, checked; their logits are T log p, up to a constant the teacher's.

    A tail that the rounding of the values has made negative is 0: it is that within
    `tail_mass_error`.

    Raises:
        CorpusError: a token or an entry is out of the vocabulary, no number, or there twice, or
            probabilities don't sum to what they should; the message names file, row and target.
    """
    _check_tokens(row, stated.vocab_size)
    row.check(
        (row.ids_E >= 0) & (row.ids_E < stated.vocab_size),
        f"ids from 0 to {stated.vocab_size - 1}",
        row.ids_E,
    )
    scale = stated.temperature or 1
    is_sane_E = np.abs(row.values_E * scale) <= _LARGEST
    row.check(is_sane_E, f"numbers, as logits from {-_LARGEST:g} to {_LARGEST:g}", row.values_E)
    num_targets = len(row.mask_T)
    # Equal values stay in the order they came in.
    order = np.lexsort((-row.values_E, row.target_E))
    target_E, ids_E, values_E = row.target_E[order], row.ids_E[order], row.values_E[order]
    _check_distinct(row, stated.vocab_size)
    counts_T = np.bincount(target_E, minlength=num_targets)
    tail_mass_T = None
    if stated.values != "logits":
        # A log-probability far above 0 would overflow; 1 is too much already.
        masses_E = np.exp(np.minimum(values_E, 1.0))
        total_T = np.bincount(target_E, masses_E, num_targets).astype(np.float64)
        tail_mass_T = _check_sums(row, stated, total_T, counts_T)
    return Entries(
        counts_T=counts_T,
        target_E=target_E,
        ids_E=ids_E,
        logits_E=(values_E * scale).astype(np.float32),
        tail_mass_T=tail_mass_T,
    )


def _check_tokens(row: ListedRow, vocab_size: int) -> None:
    ids_L = row.input_ids_L
    is_legal_L = (ids_L >= 0) & (ids_L < vocab_size)
    if not is_legal_L.all():
        token = int(is_legal_L.argmin())
        expected = f"input_ids from 0 to {vocab_size - 1}"
        raise row.wrong(token, expected, f"{ids_L[token]}")


def _check_distinct(row: ListedRow, vocab_size: int) -> None:
    keys_E = row.target_E * vocab_size + row.ids_E
    order = np.argsort(keys_E, kind="stable")
    is_first_E = np.ones(len(keys_E), np.bool_)
    is_first_E[order[1:]] = np.diff(keys_E[order]) > 0
    row.check(is_first_E, "an id once among a target's entries", row.ids_E)


def _check_sums(
    row: ListedRow, stated: Stated, total_T: Float64, counts_T: Int64
) -> Float64 | None:
    """Return the tail masses that log-probabilities leave, or None when they leave none by rule."""
    error = tail_mass_error(row.rounding, int(counts_T.max(initial=1)))
    has_entries_T = counts_T > 0
    is_sound_T = total_T <= 1 + error
    expected = f"probabilities that sum to at most 1 (within {error:.1g})"
    if stated.values == "renormalised":
        is_sound_T &= total_T >= 1 - error
        expected = f"probabilities that sum to 1 (within {error:.1g})"
    else:
        is_sound_T &= np.float32(1 - total_T) < 1
    is_sound_T |= ~has_entries_T
    if not is_sound_T.all():
        target = int(is_sound_T.argmin())
        raise row.wrong(target, expected, f"{total_T[target]:.7g}")
    return None if stated.values == "renormalised" else np.maximum(0, 1 - total_T)


def make_window(
    row: ListedRow, entries: Entries, schema: TargetSchema, source: str, document_id: str
) -> Window:
    """Return a row as a window of a store; without targets where it has no entries."""
    has_entries_T = entries.counts_T > 0
    positions_T = None
    if schema.positions == "listed":
        positions_T = np.flatnonzero(has_entries_T).astype(np.int32)
    input_ids_L = row.input_ids_L.astype(np.int32)
    segment_lengths_S = row.segment_lengths_S.astype(np.int32)
    mask_T: Bool = row.mask_T[has_entries_T]
    document_ids = [document_id]
    if len(segment_lengths_S) > 1:
        document_ids = [f"{document_id}.{number}" for number in range(len(segment_lengths_S))]
    tokens = TokenWindow(
        window_id=hash_window(input_ids_L, segment_lengths_S, mask_T, positions_T=positions_T),
        input_ids_L=input_ids_L,
        segment_lengths_S=segment_lengths_S,
        mask_T=mask_T,
        document_ids=tuple(document_ids),
        offset=0,
        source=source,
        positions_T=positions_T,
    )
    return Window.of(tokens, pack(_targets(entries, has_entries_T, schema), schema))


def _targets(entries: Entries, has_entries_T: Bool, schema: TargetSchema) -> SoftTargets:
    """Return the targets that have entries."""
    assert schema.head is not None
    counts_T = entries.counts_T[has_entries_T].astype(np.int32)
    kept_TK = kept_entries(counts_T, schema.head.max_entries)
    ids_TK = np.zeros(kept_TK.shape, np.int32)
    logits_TK = np.full(kept_TK.shape, -np.inf, np.float32)
    ids_TK[kept_TK], logits_TK[kept_TK] = entries.ids_E, entries.logits_E
    tail_mass_TG = np.empty((len(counts_T), len(schema.temperatures)), np.float32)
    if schema.temperatures:
        assert entries.tail_mass_T is not None
        tail_mass_TG[:, 0] = entries.tail_mass_T[has_entries_T]
    return SoftTargets(
        ids_TK=ids_TK,
        logits_TK=logits_TK,
        num_entries_T=counts_T,
        tail_mass_TG=tail_mass_TG,
        temperatures=schema.temperatures,
    )
