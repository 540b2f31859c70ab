"""How near a student is to its teacher on a batch: sums over targets, for means over many batches.

Shapes: B batch, L tokens, V vocabulary, N positions with a target, K kept entries.
"""

from __future__ import annotations

import torch

from softtargets.stream.batch import Batch, BatchTargets
from softtargets.train.losses import distillation_loss

KL, CROSS_ENTROPY, AGREEMENT, ACCURACY = "kl", "cross_entropy", "agreement", "accuracy"
FIGURES = {
    KL: "KL to the teacher",
    CROSS_ENTROPY: "cross-entropy",
    AGREEMENT: "top-1 agreement",
    ACCURACY: "accuracy",
}
"""What people call the figures. The first two are in nats per target, the others shares of them."""
SHARES = {AGREEMENT, ACCURACY}


@torch.no_grad()
def vocabulary_figures(
    logits_BLV: torch.Tensor, batch: Batch, temperature: float
) -> dict[str, torch.Tensor]:
    """Return the sums of a student's figures over the targets of a batch.

    The KL is `distillation_loss` with the store's own tail: with draws it is an unbiased estimate
    of the cross-entropy, less an estimate of the teacher's entropy; with a bucket the tail counts
    as one outcome. Agreement is how often the likeliest token is the teacher's. A store of draws
    alone does not tell it.

    Args:
        logits_BLV: of the student for the batch.
        batch: what it read.
        temperature: of the KL, which is in the store's grid; it is not multiplied by T^2.
    """
    kl = distillation_loss(logits_BLV, batch, temperature, num_targets=1.0) / temperature**2
    own = distillation_loss(logits_BLV, batch, temperature, ce_weight=1.0, num_targets=1.0)
    places_N = batch["target_mask"].flatten().nonzero()[:, 0]
    top_N = logits_BLV.flatten(0, 1)[places_N].argmax(dim=1)
    figures = {KL: kl, CROSS_ENTROPY: own}
    targets = _entries(batch, temperature)
    if targets is not None:
        teacher_N = targets.ids.flatten(0, 1)[places_N, 0]
        figures[AGREEMENT] = (top_N == teacher_N).sum()
    labels_N = batch.target_labels().flatten()[places_N]
    return figures | {ACCURACY: (top_N == labels_N).sum()}


def _entries(batch: Batch, temperature: float) -> BatchTargets | None:
    """Return a batch's targets, the likeliest entry first; None if it has no entries."""
    if batch.schema.entries is None:
        return None
    if not batch["temperatures"]:
        return batch.renormalized_targets(temperature)
    return batch.soft_targets(temperature)
