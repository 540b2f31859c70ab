"""How near a student is to its teacher on a batch: sums over targets, for means over many batches.

Shapes: B batch, L tokens, V vocabulary, N positions with a target, K kept entries, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from softtargets.stream.batch import IGNORE_INDEX, Batch, BatchTargets
from softtargets.targets import ClassProblem
from softtargets.train.losses import distillation_loss

KL, CROSS_ENTROPY, AGREEMENT, ACCURACY = "kl", "cross_entropy", "agreement", "accuracy"
SQUARED_ERROR, LABEL_ERROR = "squared_error", "label_squared_error"
FIGURES = {
    KL: "KL to the teacher",
    CROSS_ENTROPY: "cross-entropy",
    AGREEMENT: "top-1 agreement",
    ACCURACY: "accuracy",
    SQUARED_ERROR: "squared error to the teacher",
    LABEL_ERROR: "squared error to the labels",
}
"""What people call the figures; the last two are of scores."""
NATS = {KL, CROSS_ENTROPY}
"""The figures in nats per target."""
SHARES = {AGREEMENT, ACCURACY}


class Total(NamedTuple):
    """A figure over some targets: their mean is `sum` / `number`."""

    sum: torch.Tensor
    """A scalar."""
    number: torch.Tensor
    """How many answers it is of, a scalar; 0 where nothing is known of any."""


@torch.no_grad()
def vocabulary_figures(
    logits_BLV: torch.Tensor, batch: Batch, temperature: float
) -> dict[str, Total]:
    """Return a student's figures over the targets of a batch.

    The KL is `distillation_loss` with the store's own tail: with draws it is an unbiased estimate
    of the cross-entropy, less an estimate of the teacher's entropy; with a bucket the tail counts
    as one outcome. Agreement is how often the likeliest token is the teacher's. A store of draws
    alone does not tell it.

    Args:
        logits_BLV: of the student for the batch.
        batch: what it read.
        temperature: of the KL, which is in the store's grid; it is not multiplied by T^2.
    """
    places_N = batch["target_mask"].flatten().nonzero()[:, 0]
    top_N = logits_BLV.flatten(0, 1)[places_N].argmax(dim=1)
    figures = {
        KL: _divergence(logits_BLV, batch, temperature),
        CROSS_ENTROPY: distillation_loss(logits_BLV, batch, ce_weight=1.0, num_targets=1.0),
    }
    targets = _entries(batch, temperature)
    if targets is not None:
        teacher_N = targets.ids.flatten(0, 1)[places_N, 0]
        figures[AGREEMENT] = (top_N == teacher_N).sum()
    labels_N = batch.target_labels().flatten()[places_N]
    figures[ACCURACY] = (top_N == labels_N).sum()
    number = batch["target_mask"].sum()
    return {name: Total(one, number) for name, one in figures.items()}


@torch.no_grad()
def class_figures(logits_BXC: torch.Tensor, batch: Batch, temperature: float) -> dict[str, Total]:
    """Return a student's figures over the targets of a batch with class logits.

    Cross-entropy and accuracy are over the targets whose label is known. Where labels do not
    exclude each other, KL and cross-entropy are sums over the labels of a target, and agreement and
    accuracy count each label's yes or no. Scores have squared errors alone, means over the scores
    of a target.

    Args:
        logits_BXC: of the student, [B, C], or [B, L, C] where targets are about tokens.
        batch: what it read.
        temperature: of the KL, which is not multiplied by T^2.
    """
    schema, is_target = batch.schema, batch["target_mask"]
    is_score = schema.problem == "regression"
    distance = Total(_divergence(logits_BXC, batch, temperature), is_target.sum())
    figures = {SQUARED_ERROR if is_score else KL: distance}
    own_NC, teacher_NC = logits_BXC[is_target], batch["class_logits"][is_target]
    if not is_score:
        answers, others = _answers(own_NC, schema.problem), _answers(teacher_NC, schema.problem)
        figures[AGREEMENT] = _equal(answers, others)
    if not (schema.label_ids or schema.label_values):
        return figures
    labels = batch["labels"][is_target]
    is_known = ~labels.isnan() if schema.label_values else labels != IGNORE_INDEX
    num_known = (is_known.any(dim=1) if schema.label_values else is_known).sum()
    own = distillation_loss(logits_BXC, batch, ce_weight=1.0, num_targets=1.0)
    figures[LABEL_ERROR if is_score else CROSS_ENTROPY] = Total(own, num_known)
    if not is_score:
        figures[ACCURACY] = _equal(answers[is_known], labels[is_known])
    return figures


def _divergence(logits: torch.Tensor, batch: Batch, temperature: float) -> torch.Tensor:
    """Return the sum over targets of how far a student is from the teacher."""
    return distillation_loss(logits, batch, temperature, num_targets=1.0) / temperature**2


def _answers(logits_NC: torch.Tensor, problem: ClassProblem | None) -> torch.Tensor:
    """Return the likeliest class of each target [N], or 1 for each of its labels that is [N, C]."""
    return (logits_NC > 0).float() if problem == "multi_label" else logits_NC.argmax(dim=1)


def _equal(one: torch.Tensor, other: torch.Tensor) -> Total:
    is_equal = one == other
    return Total(is_equal.sum(), torch.tensor(is_equal.numel()))


def _entries(batch: Batch, temperature: float) -> BatchTargets | None:
    """Return a batch's targets, the likeliest entry first; None if it has no entries."""
    if batch.schema.entries is None:
        return None
    if not batch["temperatures"]:
        return batch.renormalized_targets(temperature)
    return batch.soft_targets(temperature)
