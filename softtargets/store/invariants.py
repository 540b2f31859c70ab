"""What the format promises of every window beyond the shape of its columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from softtargets.kinds import TargetSchema
from softtargets.packing import PackedTargets, kept_entries
from softtargets.packing.head import num_escapes
from softtargets.targets import Bool, SoftTargets
from softtargets.window import TokenWindow, Window, content_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One promise that does not hold."""

    where: str
    expected: str
    found: str


def check_window(window: Window, where: str) -> Iterator[Problem]:
    """Check one window against the format's invariants."""
    schema = window.packed.schema
    where = f"{where}, window {window.window_id}"
    content = content_hash(window)
    if content != window.window_id:
        yield Problem(
            where=where,
            expected=f"the hash of its content as its id, {content}",
            found=window.window_id,
        )
    promises = _token_promises(window, schema) | _packed_promises(window.packed)
    for promise, holds in promises.items():
        if not holds:
            yield Problem(where=where, expected=promise, found="others")
    if not all(_packed_promises(window.packed).values()):
        return
    for promise, holds_T in _target_promises(window, window.targets).items():
        if not holds_T.all():
            yield Problem(
                where=f"{where}, position {int(holds_T.argmin())}",
                expected=promise,
                found=f"{int((~holds_T).sum())} of {len(holds_T)} positions without",
            )


def _token_promises(window: TokenWindow, schema: TargetSchema) -> dict[str, bool]:
    """Return which promises about what was scored hold."""
    promises = {
        "segment lengths that sum to its tokens": window.segment_lengths_S.sum() == len(window),
        "a document id a segment": len(window.document_ids) == len(window.segment_lengths_S),
        "a text a segment for all metadata": all(
            len(texts) == len(window.segment_lengths_S) for texts in window.metadata.values()
        ),
        "input ids within the vocabulary": _within(window.input_ids_L, schema.num_input_ids).all(),
    }
    if window.positions_T is not None:
        most = len(window) - (schema.predicts == "next_token")
        promises["positions that rise within the window"] = (
            _within(window.positions_T, most).all() and (np.diff(window.positions_T) > 0).all()
        )
    if window.label_ids_T is not None:
        promises[f"labels below {schema.num_labels}"] = _within(
            window.label_ids_T, schema.num_labels
        ).all()
    if window.encoder_ids_M is not None:
        promises["encoder ids that are not negative"] = (window.encoder_ids_M >= 0).all()
    return {promise: bool(holds) for promise, holds in promises.items()}


def _packed_promises(packed: PackedTargets) -> dict[str, bool]:
    """Return which promises hold that unpacking relies on."""
    promises: dict[str, Any] = {}
    head, samples, schema = packed.head, packed.samples, packed.schema
    if head is not None and schema.head is not None:
        most = schema.head.max_entries
        promises[f"at most {most} entries a position and a value for every escape"] = (
            head.num_entries_T <= most
        ).all() and len(head.escapes_E) == num_escapes(head)
    if samples is not None:
        promises["counts that sum to the number of draws, a gap and a logit for every id"] = (
            samples.fits(packed.num_draws_T)
        )
    return promises


def _target_promises(window: Window, targets: SoftTargets) -> Mapping[str, Bool]:
    """Return for each promise at which positions [T] it holds."""
    schema = window.packed.schema
    promises: dict[str, Any] = {}
    if schema.head is not None:
        promises |= _head_promises(targets, schema)
    if schema.samples is not None:
        promises |= _sample_promises(window.packed, targets, schema)
    if targets.logsumexp_TG is not None:
        promises["a finite logsumexp at every temperature"] = np.isfinite(targets.logsumexp_TG).all(
            axis=1
        )
    if targets.label_logit_T is not None and targets.label_rank_T is not None:
        promises["a label logit that is a number below infinity"] = targets.label_logit_T < np.inf
        promises["a label rank within the vocabulary"] = _within(
            targets.label_rank_T, schema.vocab_size
        )
    if targets.class_logits_TC is not None:
        logits_TC = targets.class_logits_TC
        promises["class logits below infinity, and one above -inf"] = (logits_TC < np.inf).all(
            axis=1
        ) & (logits_TC > -np.inf).any(axis=1)
    for name, values_RD in targets.features.items():
        is_sound = bool(np.isfinite(values_RD).all())
        promises[f"finite values in feature {name}"] = np.full(len(targets), is_sound)
    return promises


def _head_promises(targets: SoftTargets, schema: TargetSchema) -> dict[str, Any]:
    assert schema.head is not None
    most = schema.head.max_entries
    kept_TK = kept_entries(targets.num_entries_T, most)
    # Past a count every entry gets a number of its own, so that only kept ids can be doubles.
    sorted_TK = np.sort(np.where(kept_TK, targets.ids_TK, -1 - np.arange(most)), axis=1)
    logits_TK = np.where(kept_TK, targets.logits_TK, 0)
    rises_TK = targets.logits_TK[:, 1:] > targets.logits_TK[:, :-1]
    return {
        "at least one entry": targets.num_entries_T >= 1,
        "kept ids within the vocabulary": (
            _within(targets.ids_TK, schema.vocab_size) | ~kept_TK
        ).all(axis=1),
        "kept ids without doubles": (np.diff(sorted_TK, axis=1) > 0).all(axis=1),
        "finite kept logits": np.isfinite(logits_TK).all(axis=1),
        "logits that fall or stay along the rank": ~rises_TK.any(axis=1),
        "a tail mass from 0 to below 1 at every temperature": (
            (targets.tail_mass_TG >= 0) & (targets.tail_mass_TG < 1)
        ).all(axis=1),
    }


def _sample_promises(
    packed: PackedTargets, targets: SoftTargets, schema: TargetSchema
) -> dict[str, Any]:
    assert targets.samples is not None
    assert packed.samples is not None
    assert schema.samples is not None
    samples = targets.samples
    position_S = np.repeat(np.arange(len(targets)), samples.num_samples_T)

    def everywhere(holds_S: Bool) -> Bool:
        holds_T = np.ones(len(targets), np.bool_)
        holds_T[position_S[~holds_S]] = False
        return holds_T

    # An id that stands both among the repeated and the single ones is twice in its position.
    keys_S = position_S.astype(np.int64) * schema.vocab_size + samples.ids_S
    unique, counts = np.unique(keys_S, return_counts=True)
    is_once_S = ~np.isin(keys_S, unique[counts > 1])
    promises = {
        "gaps that are not negative": everywhere(packed.samples.gaps_S >= 0),
        "sampled ids within the vocabulary": everywhere(_within(samples.ids_S, schema.vocab_size)),
        "sampled ids without doubles": everywhere(is_once_S),
        "counts above 1 before those of 1": _repeated_counts_hold(packed),
    }
    if schema.samples.origin == "tail":
        in_head_S = (targets.ids_TK[position_S] == samples.ids_S[:, None]) & kept_entries(
            targets.num_entries_T, targets.ids_TK.shape[1]
        )[position_S]
        promises["samples outside the head"] = everywhere(~in_head_S.any(axis=1))
    if samples.logits_S is not None:
        promises["finite sampled logits"] = everywhere(np.isfinite(samples.logits_S))
    return promises


def _repeated_counts_hold(packed: PackedTargets) -> Bool:
    assert packed.samples is not None
    position = np.repeat(np.arange(len(packed)), packed.samples.num_repeated_T)
    holds_T = np.ones(len(packed), np.bool_)
    holds_T[position[packed.samples.repeated_counts <= 1]] = False
    return holds_T


def _within(ids: np.ndarray, limit: int) -> Bool:
    return np.asarray((ids >= 0) & (ids < limit))
