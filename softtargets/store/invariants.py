"""What the format promises of every window beyond the shape of its columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from softtargets.errors import CorruptionError
from softtargets.packing import PackedTargets, kept_entries
from softtargets.packing.features import LARGEST_INT8
from softtargets.packing.head import split_halves
from softtargets.store.codec import cells_of
from softtargets.store.column_checks import column_faults
from softtargets.store.consistency import Origin, contradictions
from softtargets.targets import Bool, SoftTargets
from softtargets.window import TokenWindow, Window, content_hash

UNKNOWN = Origin()


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One promise that does not hold."""

    where: str
    expected: str
    found: str


def check_window(window: Window, where: str, origin: Origin = UNKNOWN) -> Iterator[Problem]:
    """Check one window against the format's invariants.

    Each level relies on the one before it: values by themselves, the parts of a target by
    themselves, and what the parts say about each other.

    Args:
        window: as it was read, whatever its values.
        where: what it was read from.
        origin: how the store's targets were made.
    """
    where = f"{where}, window {window.window_id}"
    content = content_hash(window)
    if content != window.window_id:
        yield Problem(
            where=where,
            expected=f"the hash of its content as its id, {content}",
            found=window.window_id,
        )
    for promise, found, holds in _token_promises(window):
        if not holds:
            yield Problem(where=where, expected=promise, found=found)
    schema = window.packed.schema
    faults = list(column_faults(*cells_of(window), schema))
    for fault in faults:
        yield Problem(
            where=f"{where}, column {fault.column}", expected=fault.expected, found=fault.found
        )
    if faults:
        return
    try:
        targets = window.targets
    except CorruptionError as error:
        yield Problem(where=f"{where}, {error.where}", expected=error.expected, found=error.found)
        return
    problems = list(_problems(_target_promises(window.packed, targets), where))
    yield from problems
    if not problems:
        yield from _problems(contradictions(window, targets, origin), where)


def _problems(promises: Iterator[tuple[str, Bool]], where: str) -> Iterator[Problem]:
    for promise, holds_T in promises:
        if not holds_T.all():
            yield Problem(
                where=f"{where}, position {int(holds_T.argmin())}",
                expected=promise,
                found=f"{int((~holds_T).sum())} of {len(holds_T)} positions without",
            )


def _token_promises(window: TokenWindow) -> Iterator[tuple[str, str, bool]]:
    """Yield promises about where a window is from, what was found, and whether they hold."""
    num_segments = len(window.segment_lengths_S)
    yield (
        f"{num_segments} document ids, one for each segment",
        f"{len(window.document_ids)}",
        len(window.document_ids) == num_segments,
    )
    for name, texts in window.metadata.items():
        yield (
            f"{num_segments} texts of {name}, one for each segment",
            f"{len(texts)}",
            len(texts) == num_segments,
        )
    yield "an offset that is not negative", f"{window.offset}", window.offset >= 0


def _target_promises(packed: PackedTargets, targets: SoftTargets) -> Iterator[tuple[str, Bool]]:
    """Yield promises about each part, and at which positions [T] they hold."""
    if packed.head is not None:
        yield from _head_promises(packed, targets)
    if packed.samples is not None:
        yield from _sample_promises(packed, targets)
    for feature in packed.schema.features:
        values_RD = packed.features[feature.name].values_RD
        if feature.dtype == "int8":
            is_sound = bool((values_RD >= -LARGEST_INT8).all())
            promise = f"values from -{LARGEST_INT8} to {LARGEST_INT8} in feature {feature.name}"
            yield promise, np.full(len(targets), is_sound)


def _head_promises(packed: PackedTargets, targets: SoftTargets) -> Iterator[tuple[str, Any]]:
    head = packed.head
    assert head is not None
    most = targets.ids_TK.shape[1]
    kept_TK = kept_entries(targets.num_entries_T, most)
    # Past a count every entry gets a number of its own, so that only kept ids can be doubles.
    sorted_TK = np.sort(np.where(kept_TK, targets.ids_TK, -1 - np.arange(most)), axis=1)
    yield "kept ids without doubles", (np.diff(sorted_TK, axis=1) > 0).all(axis=1)
    rises_TK = targets.logits_TK[:, 1:] > targets.logits_TK[:, :-1]
    yield "logits that fall or stay along the rank", ~rises_TK.any(axis=1)
    rest_TK: Any = head.logits_TK
    if head.steps_TH is not None:
        rest_TK = split_halves(head.steps_TH, 2 * head.steps_TH.shape[1])
        kept_TK = kept_entries(targets.num_entries_T, rest_TK.shape[1])
    is_zero_T = ((rest_TK == 0) | kept_TK).all(axis=1)
    is_zero_T &= ((targets.ids_TK == 0) | kept_TK[:, :most]).all(axis=1)
    yield "zeros past the number of entries", is_zero_T


def _sample_promises(packed: PackedTargets, targets: SoftTargets) -> Iterator[tuple[str, Bool]]:
    samples, schema = targets.samples, packed.schema
    assert samples is not None
    assert schema.samples is not None
    position_S = np.repeat(np.arange(len(targets)), samples.num_samples_T)

    def everywhere(holds_S: Bool) -> Bool:
        holds_T = np.ones(len(targets), np.bool_)
        holds_T[position_S[~holds_S]] = False
        return holds_T

    # An id that stands both among the repeated and the single ones is twice in its position.
    keys_S = position_S.astype(np.int64) * schema.vocab_size + samples.ids_S
    unique, counts = np.unique(keys_S, return_counts=True)
    yield "sampled ids without doubles", everywhere(~np.isin(keys_S, unique[counts > 1]))
    if schema.samples.origin == "tail":
        in_head_S = (targets.ids_TK[position_S] == samples.ids_S[:, None]) & kept_entries(
            targets.num_entries_T, targets.ids_TK.shape[1]
        )[position_S]
        yield "samples outside the head", everywhere(~in_head_S.any(axis=1))
