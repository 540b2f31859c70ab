"""Losses of a student against sparse soft targets.

At temperature T the divergence is multiplied by T^2, which keeps the gradient's scale over
temperatures (Hinton et al. 2015, section 2.1).

Shapes: B batch, L tokens, V vocabulary, D width of the hidden states, E entries, N positions with a
target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch.nn import functional

from softtargets.errors import InputError
from softtargets.stream.batch import Batch, BatchTargets
from softtargets.stream.logits_size import check_logits_size
from softtargets.train.choices import check_options, number_of_targets
from softtargets.train.class_loss import class_loss
from softtargets.train.divergences import (
    Divergence,
    DivergenceName,
    ForwardKL,
    as_divergence,
)
from softtargets.train.entropy import estimated_entropy
from softtargets.train.full import FullTargets, OutputHead, check_full, full_targets
from softtargets.train.sparse import SparseTargets, Tail, choose_tail, sparse_targets

_FORWARD_KL = ForwardKL()


def distillation_loss(
    student_logits: torch.Tensor,
    batch: Batch,
    temperature: float = 1.0,
    ce_weight: float = 0.0,
    *,
    divergence: Divergence | DivergenceName = _FORWARD_KL,
    tail: Tail | None = None,
    confidence_power: float = 0.0,
    num_targets: float | torch.Tensor | None = None,
    teacher_head: OutputHead | None = None,
) -> torch.Tensor:
    """Return the mean over all targets of the batch in nats, a scalar; without targets it is 0.

    Of class logits it is `class_loss`. Else it is

    (1 - ce_weight) * T^2 * w * D(teacher, student) at temperature T
        + ce_weight * cross-entropy on the labels at temperature 1.

    Args:
        student_logits: [B, L, V] for the batch's input ids; position t predicts token t + 1.
        batch: what `collate` returned, on the same device.
        temperature: T, of the store's grid unless `tail` allows others.
        ce_weight: from 0 to 1.
        divergence: D, such as `ReverseKL()`, or its name, such as "reverse_kl".
        tail: what stands for the ids that are not kept, see `Tail`.
        confidence_power: w = p^power, p the probability of the teacher's top entry at T; above 0
            what the teacher is sure of weighs more, below 0 what it is not.
        num_targets: what the sum is divided by, see `Loss`; None for the batch's own targets.
        teacher_head: for tail "full", the store's, see `OutputHead.of`.

    Raises:
        InputError, TemperatureError: shapes, vocabularies, options and store do not fit each other.
    """
    options = temperature, ce_weight, divergence, tail, confidence_power, num_targets, teacher_head
    if batch.schema.num_classes:
        return class_loss(student_logits, batch, *options)
    shape = student_logits.shape
    check_student(shape, shape[-1], batch, where="student_logits", last="V")
    check_logits_size(batch, shape[-1])
    objective = make_objective(batch, *options)
    objective.check_ids(shape[-1])
    return objective.loss(objective.select(student_logits).float())


class Loss(Protocol):
    """What `distillation_loss` is, perhaps with other options: `partial(..., temperature=2.0)`."""

    def __call__(
        self,
        student_logits: torch.Tensor,
        batch: Batch,
        *,
        num_targets: float | torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the sum over the targets of a batch, divided by `num_targets`.

        Under gradient accumulation these are the targets of all batches of an optimizer step (each
        batch's are `batch["target_mask"].sum()`). Under data parallelism, which averages gradients
        over ranks, they are those of all ranks divided by the number of ranks. Then the gradient is
        that of one large batch, however its targets are distributed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsObjective:
    """What a student's logits at N positions are judged by; see `distillation_loss`."""

    places_N: torch.Tensor
    """Where the positions stand among the B L of the batch."""
    labels_N: torch.Tensor
    targets: SparseTargets | FullTargets
    divergence: Divergence
    temperature: float
    weights_N: torch.Tensor | None
    """Of each position's divergence; None when only labels count."""
    ce_weight: float | torch.Tensor | None
    """Of each position's cross-entropy; None when labels do not count."""

    def __len__(self) -> int:
        return len(self.places_N)

    def select(self, values_BLX: torch.Tensor) -> torch.Tensor:
        """Return what stands at the positions, [N, X]."""
        return values_BLX.flatten(0, 1).index_select(0, self.places_N)

    def rows(self, chosen: slice) -> LogitsObjective:
        """Return the part of some positions; the losses of all parts sum to that of the whole."""
        return replace(
            self,
            places_N=self.places_N[chosen],
            labels_N=self.labels_N[chosen],
            targets=self.targets.rows(chosen),
            weights_N=None if self.weights_N is None else self.weights_N[chosen],
        )

    def check_ids(self, num_ids: int) -> None:
        """Check that a student's logits of so many ids have all that is looked up in them.

        On a GPU an id out of range would end every later use of the device, wherever that is.

        Raises:
            InputError: they have not.
        """
        used: dict[str, torch.Tensor] = {"entries": self.targets.ids_NE}
        if self.ce_weight is not None or self.targets.tail == "label":
            used = {"labels": self.labels_N, **used}
        used = {name: ids for name, ids in used.items() if ids.numel()}
        if not used:
            return
        # One wait for the device, right after that for the number of targets.
        bounds = torch.stack([torch.stack(ids.aminmax()) for ids in used.values()]).tolist()
        for name, (lowest, highest) in zip(used, bounds, strict=True):
            if lowest < 0 or highest >= num_ids:
                raise InputError(
                    f"Batch, {name}",
                    expected=f"ids from 0 to {num_ids - 1}, which the student has, at all targets",
                    found=f"{lowest if lowest < 0 else highest}",
                    next_step="Leave batches as they are collated; what is not to be trained on is "
                    "False in target_mask.",
                )

    def loss(self, logits_NV: torch.Tensor) -> torch.Tensor:
        """Return the loss of float32 logits, a scalar."""
        loss = logits_NV.new_zeros(())
        if self.weights_N is not None:
            scaled_NV = logits_NV if self.temperature == 1 else logits_NV / self.temperature
            if isinstance(self.targets, FullTargets) or self.targets.tail == "uniform":
                losses_N = self.targets.dense_losses(self.divergence, scaled_NV)
            else:
                student_NE = scaled_NV.gather(1, self.targets.ids_NE)
                logsumexp_N = scaled_NV.logsumexp(dim=1)
                losses_N = self.targets.losses(self.divergence, student_NE, logsumexp_N)
            loss = loss + (self.weights_N * losses_N).sum()
        if self.ce_weight is not None:
            ce = functional.cross_entropy(logits_NV, self.labels_N, reduction="sum")
            loss = loss + self.ce_weight * ce
        return loss


def make_objective(
    batch: Batch,
    temperature: float,
    ce_weight: float,
    divergence: Divergence | DivergenceName,
    tail: Tail | None,
    confidence_power: float,
    num_targets: float | torch.Tensor | None,
    teacher_head: OutputHead | None,
) -> LogitsObjective:
    """Return what `distillation_loss` judges a student's logits by, with its arguments."""
    divergence = as_divergence(divergence)
    check_options(temperature, ce_weight, confidence_power)
    teacher_head = check_full(batch, tail, teacher_head)
    places_N = batch["target_mask"].flatten().nonzero()[:, 0]
    labels_N = batch.target_labels().flatten()[places_N]
    number = number_of_targets(num_targets, len(places_N))
    scale = (1 - ce_weight) * temperature**2 / number
    weights_N = scale * torch.ones_like(places_N, dtype=torch.float32) if ce_weight < 1 else None
    targets: SparseTargets | FullTargets
    if teacher_head is not None:
        targets = full_targets(batch, places_N, teacher_head, temperature, confidence_power)
    else:
        tail = choose_tail(batch, tail, divergence)
        found = _stored_targets(batch, temperature, tail)
        targets = sparse_targets(found, places_N, labels_N, tail)
        if tail == "sampled" and weights_N is not None:
            entropy_N = estimated_entropy(batch, found, places_N, temperature)
            targets = replace(targets, entropy_N=entropy_N)
        if weights_N is not None and confidence_power != 0:
            weights_N *= _confidence(found, places_N) ** confidence_power
    return LogitsObjective(
        places_N=places_N,
        labels_N=labels_N,
        targets=targets,
        divergence=divergence,
        temperature=temperature,
        weights_N=weights_N,
        ce_weight=ce_weight / number if ce_weight > 0 else None,
    )


def _stored_targets(batch: Batch, temperature: float, tail: Tail) -> BatchTargets:
    """Return a batch's targets; a store that knows no tail has them at any temperature."""
    if tail == "renormalize" and not batch["temperatures"]:
        return batch.renormalized_targets(temperature)
    return batch.soft_targets(temperature)


def _confidence(targets: BatchTargets, places_N: torch.Tensor) -> torch.Tensor:
    """Return the probability [N] of the teacher's top entry."""
    if not targets.logprobs.shape[-1]:
        raise InputError(
            "confidence_power",
            expected="targets with a head, whose first entry tells the teacher's confidence",
            found="a store of samples",
            next_step="Omit it, or build the store with --select hybrid.",
        )
    return targets.logprobs[..., 0].flatten()[places_N].exp()


def check_student(
    shape: Sequence[int], num_ids: int, batch: Batch, *, where: str, last: str
) -> None:
    """Check that a student's output fits the batch, and its vocabulary the teacher's.

    Raises:
        InputError: it does not, or the batch is not as it was collated.
    """
    batch.check()
    if batch.schema.num_classes:
        raise InputError(
            where,
            expected="a batch with targets of a vocabulary",
            found=batch.schema.describe(),
            next_step="Use distillation_loss: class logits are few, and it needs no fusing.",
        )
    expected = tuple(batch["input_ids"].shape)
    if len(shape) != 3 or tuple(shape[:2]) != expected:
        raise InputError(
            where,
            expected=f"shape [{expected[0]}, {expected[1]}, {last}], like the batch's input ids",
            found=f"{list(shape)}",
            next_step="Pass what the model gives for batch['input_ids'], not shifted.",
        )
    if num_ids < batch["vocab_size"]:
        raise InputError(
            where,
            expected=f"at least the teacher's vocabulary of {batch['vocab_size']} columns",
            found=f"{num_ids}",
            next_step="Give the student the teacher's tokenizer and vocabulary size.",
        )
