"""What a loss comes to when the student is the teacher."""

from __future__ import annotations

import torch

from softtargets.errors import InputError
from softtargets.stream.batch import Batch
from softtargets.train.choices import check_options
from softtargets.train.class_loss import class_loss
from softtargets.train.divergences import Divergence, DivergenceName, ForwardKL, as_divergence
from softtargets.train.entropy import whole_logsumexp
from softtargets.train.sparse import Tail, check_tail, choose_tail, sparse_targets

_FORWARD_KL = ForwardKL()
_EXACT = ("bucket", "full", "sampled")
"""Tails whose divergence is 0 for the teacher itself; with sampled it is so in expectation, and as
far as the teacher's entropy is known."""


def distillation_floor(
    batch: Batch,
    temperature: float = 1.0,
    ce_weight: float = 0.0,
    *,
    divergence: Divergence | DivergenceName = _FORWARD_KL,
    tail: Tail | None = None,
) -> torch.Tensor:
    """Return `distillation_loss` of a batch for a student that is the teacher, a scalar in nats.

    That is 0 with tails "bucket", "full" and "sampled" but for the cross-entropy on labels, which
    the teacher has too. With "renormalize" it is above 0: there the best student is another one.

    Args:
        batch: what `collate` returned.
        temperature: as in `distillation_loss`, and so are all that follow.
        ce_weight: see there; above 0 it needs labels' logits, and 1 in the store's grid.
        divergence: see there.
        tail: see there; "uniform" and "label" have a floor that a store cannot tell.

    Raises:
        InputError, TemperatureError: an option is out of range, or the store does not tell.
    """
    if batch.schema.num_classes:
        own_logits = batch["class_logits"]
        return class_loss(own_logits, batch, temperature, ce_weight, divergence, tail)
    divergence = as_divergence(divergence)
    check_tail(tail)
    check_options(temperature, ce_weight)
    if tail != "full":
        tail = choose_tail(batch, tail, divergence)
    places_N = batch["target_mask"].flatten().nonzero()[:, 0]
    floor = torch.zeros((), device=places_N.device)
    if ce_weight < 1 and tail not in _EXACT:
        own = _renormalized_floor(batch, places_N, temperature, divergence, tail)
        floor = floor + (1 - ce_weight) * temperature**2 * own
    if ce_weight > 0:
        floor = floor + ce_weight * _cross_entropy(batch, places_N)
    return floor


def _renormalized_floor(
    batch: Batch,
    places_N: torch.Tensor,
    temperature: float,
    divergence: Divergence,
    tail: Tail,
) -> torch.Tensor:
    if tail != "renormalize" or not batch["temperatures"]:
        raise InputError(
            f"tail {tail!r}",
            expected="a tail whose floor the store tells: bucket, full, sampled, or renormalize "
            "with the tail's mass",
            found="one that depends on what the teacher says of ids that are not kept",
            next_step="Compare losses by tail='bucket', whose floor is 0.",
        )
    found = batch.soft_targets(temperature)
    targets = sparse_targets(found, places_N, places_N, tail)
    own_NE = found.logprobs.flatten(0, 1)[places_N]
    losses_N = targets.losses(divergence, own_NE, torch.zeros_like(own_NE[:, 0]))
    return losses_N.sum() / max(1, len(places_N))


def _cross_entropy(batch: Batch, places_N: torch.Tensor) -> torch.Tensor:
    """Return the teacher's own mean cross-entropy on the labels."""
    if "label_logit" not in batch:
        raise InputError(
            "ce_weight",
            expected="targets with the label's logit, which the teacher's cross-entropy follows "
            "from",
            found="a store without",
            next_step="Pass ce_weight=0, or build the store without --no-label-logits.",
        )
    logsumexp_N = whole_logsumexp(batch, batch.soft_targets(1.0), 1.0).flatten()[places_N]
    labels_N = batch["label_logit"].flatten()[places_N]
    cross_entropy: torch.Tensor = (logsumexp_N - labels_N).sum() / max(1, len(places_N))
    return cross_entropy
