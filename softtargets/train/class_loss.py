"""Losses of a student against the class logits of a teacher, which are known in full.

What they are depends on the store's `problem`. One class is right: the divergence of the two
softmaxes. Labels do not exclude each other: the divergence of each label's yes and no, summed over
the labels, which is that of all answers together. A score: the squared error.

Shapes: B batch, L tokens, N targets that are trained on, C classes.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn import functional

from softtargets.errors import InputError, TemperatureError
from softtargets.stream.batch import IGNORE_INDEX, Batch
from softtargets.targets import ClassProblem
from softtargets.train.choices import check_options, number_of_targets
from softtargets.train.divergences import Divergence, DivergenceName, ForwardKL, as_divergence
from softtargets.train.full import OutputHead, dense_divergence
from softtargets.train.sparse import Tail

_FORWARD_KL = ForwardKL()


def class_loss(
    student_logits: torch.Tensor,
    batch: Batch,
    temperature: float,
    ce_weight: float,
    divergence: Divergence | DivergenceName,
    tail: Tail | None,
    confidence_power: float = 0.0,
    num_targets: float | torch.Tensor | None = None,
    teacher_head: OutputHead | None = None,
) -> torch.Tensor:
    """Return the mean over all targets of the batch, a scalar; without targets it is 0.

    (1 - ce_weight) * T^2 * w * D(teacher, student) at temperature T
        + ce_weight * the loss of the label at temperature 1.

    D is a divergence in nats, and the label's loss is the cross-entropy. With problem
    "multi_label" both are sums over the labels' binary ones. With "regression" both are the
    squared error, the mean over the scores, and T is 1. A target without a label has the first
    term alone. The student's logits are [B, C], or [B, L, C] where targets are about tokens. For
    arguments and errors see `distillation_loss`.
    """
    kind, divergence = _KINDS[batch.schema.problem], as_divergence(divergence)
    check_options(temperature, ce_weight, confidence_power)
    kind.check(temperature, divergence, confidence_power)
    _check_whole(tail, teacher_head)
    _check_batch(student_logits, batch, ce_weight)
    places_N = batch["target_mask"].flatten().nonzero()[:, 0]
    number = number_of_targets(num_targets, len(places_N))
    student_NC = student_logits.flatten(0, -2)[places_N].float()
    teacher_NC = batch["class_logits"].flatten(0, -2)[places_N]
    loss = student_NC.new_zeros(())
    if ce_weight < 1:
        scaled_NC = teacher_NC / temperature
        losses_N = kind.losses(scaled_NC, student_NC / temperature, divergence)
        weights_N = kind.confidences(scaled_NC) ** confidence_power
        loss = loss + (1 - ce_weight) * temperature**2 / number * (weights_N * losses_N).sum()
    if ce_weight > 0:
        labels_N = batch["labels"].flatten(0, batch["target_mask"].ndim - 1)[places_N]
        loss = loss + ce_weight / number * kind.label_losses(student_NC, labels_N).sum()
    return loss


class _Kind(Protocol):
    """What logits of one problem are judged by."""

    def check(self, temperature: float, divergence: Divergence, confidence_power: float) -> None:
        """Check options that not every problem has."""

    def losses(
        self, teacher_NC: torch.Tensor, student_NC: torch.Tensor, divergence: Divergence
    ) -> torch.Tensor:
        """Return how far the student is from the teacher [N], by logits at a temperature."""
        ...

    def confidences(self, teacher_NC: torch.Tensor) -> torch.Tensor:
        """Return the probability [N] of the teacher's answer."""
        ...

    def label_losses(self, student_NC: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
        """Return how far the student is from the labels [N]; 0 where they are not known."""
        ...


class _OneClass:
    """One class is right."""

    def check(self, temperature: float, divergence: Divergence, confidence_power: float) -> None:
        del temperature, divergence, confidence_power

    def losses(
        self, teacher_NC: torch.Tensor, student_NC: torch.Tensor, divergence: Divergence
    ) -> torch.Tensor:
        log_t_NC, log_s_NC = teacher_NC.log_softmax(dim=1), student_NC.log_softmax(dim=1)
        return dense_divergence(divergence, log_t_NC, log_s_NC)

    def confidences(self, teacher_NC: torch.Tensor) -> torch.Tensor:
        return teacher_NC.softmax(dim=1).amax(dim=1)

    def label_losses(self, student_NC: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(
            student_NC, labels_N, reduction="none", ignore_index=IGNORE_INDEX
        )


class _ManyLabels:
    """Each label is right or not by itself: a softmax over its logit and 0."""

    def check(self, temperature: float, divergence: Divergence, confidence_power: float) -> None:
        del temperature, divergence, confidence_power

    def losses(
        self, teacher_NC: torch.Tensor, student_NC: torch.Tensor, divergence: Divergence
    ) -> torch.Tensor:
        log_t_M2, log_s_M2 = _answers(teacher_NC), _answers(student_NC)
        losses_M = dense_divergence(divergence, log_t_M2, log_s_M2)
        return losses_M.view_as(teacher_NC).sum(dim=1)

    def confidences(self, teacher_NC: torch.Tensor) -> torch.Tensor:
        return functional.logsigmoid(teacher_NC.abs()).sum(dim=1).exp()

    def label_losses(self, student_NC: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
        is_known_NC = ~labels_N.isnan()
        losses_NC = functional.binary_cross_entropy_with_logits(
            student_NC, labels_N.masked_fill(~is_known_NC, 0), reduction="none"
        )
        return losses_NC.masked_fill(~is_known_NC, 0).sum(dim=1)


def _answers(logits_NC: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of yes and no of each label of each target, [N C, 2]."""
    logits_M = logits_NC.flatten()
    return torch.stack([functional.logsigmoid(logits_M), functional.logsigmoid(-logits_M)], dim=1)


class _Scores:
    """Logits are values of a score."""

    def check(self, temperature: float, divergence: Divergence, confidence_power: float) -> None:
        """Check that there is nothing that a distribution alone has.

        Raises:
            InputError, TemperatureError: there is.
        """
        if temperature != 1:
            raise TemperatureError(
                "temperature",
                expected="1: scores are no logits of a distribution",
                found=f"{temperature:g}",
                next_step="Omit it.",
            )
        if divergence != _FORWARD_KL or confidence_power != 0:
            raise InputError(
                "regression",
                expected="the squared error of scores, which no option changes",
                found=f"divergence {divergence.name}, confidence_power {confidence_power:g}",
                next_step="Omit both.",
            )

    def losses(
        self, teacher_NC: torch.Tensor, student_NC: torch.Tensor, divergence: Divergence
    ) -> torch.Tensor:
        del divergence
        return (student_NC - teacher_NC).square().mean(dim=1)

    def confidences(self, teacher_NC: torch.Tensor) -> torch.Tensor:
        return teacher_NC.new_ones(len(teacher_NC))

    def label_losses(self, student_NC: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
        is_known_NC = ~labels_N.isnan()
        apart_NC = (student_NC - labels_N.masked_fill(~is_known_NC, 0)).square()
        return apart_NC.masked_fill(~is_known_NC, 0).mean(dim=1)


_KINDS: dict[ClassProblem | None, _Kind] = {
    None: _OneClass(),
    "multi_label": _ManyLabels(),
    "regression": _Scores(),
}


def _check_whole(tail: Tail | None, teacher_head: OutputHead | None) -> None:
    """Check that nothing is asked for that stands for what is not kept: class logits are whole.

    Raises:
        InputError: something is.
    """
    if tail is not None or teacher_head is not None:
        raise InputError(
            "tail and teacher_head",
            expected="neither: the logits of all classes are stored",
            found=f"tail={tail!r}" if tail is not None else "a teacher_head",
            next_step="Omit both.",
        )


def _check_batch(student_logits: torch.Tensor, batch: Batch, ce_weight: float) -> None:
    """Check that a student's output fits the batch, and that there are labels if they count.

    Raises:
        InputError: it does not, there are none, or the batch is not as it was collated.
    """
    batch.check()
    expected = (*batch["target_mask"].shape, batch.schema.num_classes)
    if tuple(student_logits.shape) != expected:
        raise InputError(
            "student_logits",
            expected=f"shape {list(expected)}: {batch.schema.describe()} for each target",
            found=f"{list(student_logits.shape)}",
            next_step="Pass what a model with as many classes gives for student_inputs(batch): "
            "load it with num_labels as the store has.",
        )
    if ce_weight > 0 and not (batch.schema.label_ids or batch.schema.label_values):
        raise InputError(
            "ce_weight",
            expected="a store with labels, whose loss it weighs",
            found="one without",
            next_step="Pass 0, or build the store with --label-field.",
        )
