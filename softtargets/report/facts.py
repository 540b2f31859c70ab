"""What is known of every target of a window: its label, and what the teacher thinks of it.

Each number is there only if the store has what it follows from exactly, or without bias; nothing is
guessed. G are the temperatures of `grid_of`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from softtargets.targets import (
    UNKNOWN_LABEL,
    Bool,
    Float32,
    Float64,
    Int32,
    SoftTargets,
    TargetSchema,
)
from softtargets.window import Window

EntropyKind = Literal["exact", "bound", "estimate"]
"""The entropy itself; that with the tail as one outcome, which is at most as large; or an estimate
by draws, right in the mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of the T targets of a window; None where the store does not tell.

    All logarithms are in nats.
    """

    label_ids_T: Int32 | None = None
    is_labelled_T: Bool | None = None
    """Which targets have a label; None where all have one, or none. What is said of a label means
    nothing where there is none."""
    label_logprob_TG: Float64 | None = None
    """-inf where the teacher rules the label out."""
    label_rank_T: Int32 | None = None
    """How many ids, or classes, the teacher finds likelier than the label."""
    is_top_T: Bool | None = None
    """Whether the label is the teacher's first choice."""
    tail_mass_TG: Float32 | None = None
    entropy_TG: Float64 | None = None
    """What `entropy_kind` says."""


def grid_of(schema: TargetSchema) -> tuple[float, ...]:
    """Return the temperatures at which probabilities are known; for class logits that is 1."""
    if schema.problem == "regression":
        return ()
    return (1.0,) if schema.num_classes else schema.temperatures


def entropy_kind(schema: TargetSchema) -> EntropyKind | None:
    """Return what the entropy of a store is; None when nothing of it is known."""
    if schema.num_classes:
        return "exact" if grid_of(schema) else None
    if not schema.temperatures:
        return None
    samples = schema.samples
    is_known = samples is not None and samples.values != "none"
    is_all = schema.head is None or (samples is not None and samples.origin == "tail")
    if is_known and is_all:
        return "estimate"
    return None if schema.head is None else "bound"


def has_label_logprobs(schema: TargetSchema) -> bool:
    """Return whether the probability of every label is known."""
    if schema.num_classes:
        return bool(grid_of(schema)) and (schema.label_ids or schema.label_values)
    return schema.label_logits and len(schema.temperatures) > 0


def facts_of(window: Window, schema: TargetSchema, targets: SoftTargets | None = None) -> Facts:
    """Return what is known of a window's targets; `targets` are those that are unpacked already."""
    targets = window.targets if targets is None else targets
    if targets.class_logits_TC is not None:
        return _class_facts(targets.class_logits_TC, window, schema)
    labels_T = window.labels_T if schema.has_labels else None
    grid = schema.temperatures
    label_logprob_TG = None
    if has_label_logprobs(schema):
        assert targets.label_logit_T is not None
        label_T = targets.label_logit_T.astype(np.float64)
        label_logprob_TG = np.stack([label_T / one - targets.logsumexp_T(one) for one in grid], 1)
    entropy_TG = None
    if entropy_kind(schema) is not None:
        entropy_TG = np.stack([_entropy(targets, schema, one) for one in grid], axis=1)
    rank_T, is_top_T = targets.label_rank_T, None
    if rank_T is not None:
        is_top_T = rank_T == 0
    elif schema.head is not None and labels_T is not None:
        is_top_T = targets.ids_TK[:, 0] == labels_T
    return Facts(
        label_ids_T=labels_T,
        label_logprob_TG=label_logprob_TG,
        label_rank_T=rank_T,
        is_top_T=is_top_T,
        tail_mass_TG=targets.tail_mass_TG if schema.head is not None and grid else None,
        entropy_TG=entropy_TG,
    )


def _class_facts(logits_TC: Float32, window: Window, schema: TargetSchema) -> Facts:
    """Return what is known of class logits; of scores that is nothing beside the label."""
    if schema.problem == "regression":
        return Facts(is_labelled_T=_have_values_T(window, schema))
    logprobs_TC = class_logprobs(logits_TC, schema)
    entropy_TG = class_entropies(logits_TC, schema)[:, None]
    if schema.problem == "multi_label":
        return _label_facts(logits_TC, logprobs_TC, entropy_TG, window, schema)
    if not schema.label_ids:
        return Facts(entropy_TG=entropy_TG)
    labels_T = window.labels_T
    is_labelled_T = labels_T != UNKNOWN_LABEL
    places_T1 = np.where(is_labelled_T, labels_T, 0)[:, None]
    rank_T = (logits_TC > np.take_along_axis(logits_TC, places_T1, axis=1)).sum(axis=1)
    return Facts(
        label_ids_T=labels_T,
        is_labelled_T=is_labelled_T,
        label_logprob_TG=np.take_along_axis(logprobs_TC, places_T1, axis=1),
        label_rank_T=rank_T.astype(np.int32),
        is_top_T=rank_T == 0,
        entropy_TG=entropy_TG,
    )


def _label_facts(
    logits_TC: Float32,
    logprobs_TC: Float64,
    entropy_TG: Float64,
    window: Window,
    schema: TargetSchema,
) -> Facts:
    """Return what is known of labels that do not exclude each other; all of them are the answer."""
    if window.label_values_F is None:
        return Facts(entropy_TG=entropy_TG)
    is_right_TC = window.label_values_F.reshape(logits_TC.shape) > 0
    others_TC = class_logprobs(-logits_TC, schema)
    return Facts(
        is_labelled_T=_have_values_T(window, schema),
        label_logprob_TG=np.where(is_right_TC, logprobs_TC, others_TC).sum(axis=1, keepdims=True),
        is_top_T=((logits_TC > 0) == is_right_TC).all(axis=1),
        entropy_TG=entropy_TG,
    )


def _have_values_T(window: Window, schema: TargetSchema) -> Bool | None:
    """Return which targets have labels that are numbers; None where none may have."""
    if window.label_values_F is None:
        return None
    is_known_TC = ~np.isnan(window.label_values_F.reshape(-1, schema.num_classes))
    return np.asarray(is_known_TC.all(axis=1))


def class_logprobs(logits_TC: Float32, schema: TargetSchema) -> Float64:
    """Return the log-probabilities [T, C] of classes, or of each label's yes, at temperature 1."""
    wide_TC = logits_TC.astype(np.float64)
    if schema.problem == "multi_label":
        return np.asarray(-np.logaddexp(0, -wide_TC))
    top_T1 = wide_TC.max(axis=1, keepdims=True)
    below_TC = wide_TC - top_T1
    return np.asarray(below_TC - np.log(np.exp(below_TC).sum(axis=1, keepdims=True)))


def class_entropies(logits_TC: Float32, schema: TargetSchema) -> Float64:
    """Return the entropy [T] of the teacher's answer in nats; of several labels, of all of them."""
    signs = (1, -1) if schema.problem == "multi_label" else (1,)
    terms = []
    for sign in signs:
        logprobs_TC = class_logprobs(sign * logits_TC, schema)
        finite_TC = np.where(np.isfinite(logprobs_TC), logprobs_TC, 0)
        terms.append(-np.exp(logprobs_TC) * finite_TC)
    return np.asarray(np.sum(terms, axis=(0, 2)))


@dataclass(frozen=True, slots=True)
class Drawn:
    """The S draws of a window at one temperature."""

    position_S: npt.NDArray[np.int64]
    weight_S: Float64
    """Unbiased estimates of the ids' probabilities (schemas/FORMAT.md)."""
    logprob_S: Float64 | None
    """Their log-probabilities themselves; None where their logits are not stored."""


def drawn_at(targets: SoftTargets, schema: TargetSchema, temperature: float) -> Drawn | None:
    """Return the draws at a temperature of the grid; None if they cannot be weighed at it."""
    samples, how = targets.samples, schema.samples
    if samples is None or how is None:
        return None
    position_S = np.repeat(np.arange(len(targets)), samples.num_samples_T)
    weight_S = samples.counts_S / how.num_draws
    if how.weighs_tail:
        weight_S = weight_S * np.exp(targets.tail_logmass_T(how.temperature))[position_S]
    if samples.logits_S is None:
        return Drawn(position_S, weight_S, None) if temperature == how.temperature else None
    logits_S = samples.logits_S.astype(np.float64)
    logprob_S = logits_S / temperature - targets.logsumexp_T(temperature)[position_S]
    drawn_S = logits_S / how.temperature - targets.logsumexp_T(how.temperature)[position_S]
    return Drawn(position_S, weight_S * np.exp(logprob_S - drawn_S), logprob_S)


def _entropy(targets: SoftTargets, schema: TargetSchema, temperature: float) -> Float64:
    """Return the entropy [T] in nats, of the kind that `entropy_kind` says."""
    entropy_T = np.zeros(len(targets))
    if schema.head is not None:
        logprobs_TK = targets.logprobs_TK(temperature).astype(np.float64)
        finite_TK = np.where(np.isfinite(logprobs_TK), logprobs_TK, 0)
        entropy_T -= (np.exp(logprobs_TK) * finite_TK).sum(axis=1)
    drawn = drawn_at(targets, schema, temperature)
    if entropy_kind(schema) == "estimate":
        assert drawn is not None
        assert drawn.logprob_S is not None
        terms_S = -drawn.weight_S * drawn.logprob_S
        return entropy_T + np.bincount(drawn.position_S, terms_S, minlength=len(targets))
    tail_logmass_T = targets.tail_logmass_T(temperature).astype(np.float64)
    finite_T = np.where(tail_logmass_T > -np.inf, tail_logmass_T, 0)
    return np.asarray(entropy_T - np.exp(tail_logmass_T) * finite_T)
