"""The output head and the loss in one, chunk by chunk: the logits of a batch never exist at once.

A sparse loss depends on the logits u of a position through those of E entries and the logsumexp
alone. So its gradient is dL/du_j = dL/dlse * softmax(u)_j, plus dL/du_e at the entries: the dense
part is made in the memory of the logits themselves. As head and loss are known together, a chunk's
gradients of hidden states and head are made as soon as its loss, as in the cross-entropy of Liger
Kernel (Hsu et al. 2024).

Shapes: N positions with a target, C of them in a chunk, V vocabulary, D width, E entries.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from softtargets.errors import InputError
from softtargets.stream.batch import Batch
from softtargets.train.choices import check_whole_number
from softtargets.train.divergences import Divergence, DivergenceName, ForwardKL
from softtargets.train.full import OutputHead
from softtargets.train.head_gradients import HeadGradients
from softtargets.train.losses import LogitsObjective, check_student, make_objective
from softtargets.train.sparse import SparseTargets, Tail

CHUNK_ELEMENTS = 1 << 24
"""Logits of a chunk, by default: 64 MB in float32."""
_FORWARD_KL = ForwardKL()


def fused_distillation_loss(
    hidden_states: torch.Tensor,
    head_weight: torch.Tensor,
    batch: Batch,
    temperature: float = 1.0,
    ce_weight: float = 0.0,
    *,
    head_bias: torch.Tensor | None = None,
    divergence: Divergence | DivergenceName = _FORWARD_KL,
    tail: Tail | None = None,
    confidence_power: float = 0.0,
    num_targets: float | torch.Tensor | None = None,
    teacher_head: OutputHead | None = None,
    chunk_size: int | None = None,
) -> torch.Tensor:
    """Return `distillation_loss` of the logits hidden_states @ head_weight.T + head_bias.

    Only positions with a target go through the head. A student that does more after its head, such
    as soft-capping, needs `distillation_loss`. There can be one backward pass only.

    `hidden_states` [B, L, D] are the decoder's last ones, `head_weight` is [V, D], `head_bias` [V].
    `chunk_size` is C, by default as many as make 2^24 logits, all copies counted. With a
    `teacher_head` its logits are made by chunks too. The rest is as in `distillation_loss`.

    Raises:
        InputError, TemperatureError: as `distillation_loss`.
    """
    check_student(
        hidden_states.shape, len(head_weight), batch, where="hidden_states, head_weight", last="D"
    )
    objective = make_objective(
        batch, temperature, ce_weight, divergence, tail, confidence_power, num_targets, teacher_head
    )
    objective.check_ids(len(head_weight))
    if chunk_size is None:
        chunk_size = max(1, CHUNK_ELEMENTS // _num_tensors(objective) // len(head_weight))
    check_whole_number("chunk_size", chunk_size, least=1, next_step="Omit it for the default.")
    hidden_ND = objective.select(hidden_states)
    arguments = hidden_ND, head_weight, head_bias, objective, chunk_size, _dtype(hidden_ND)
    return _HeadAndLoss.apply(*arguments)  # type: ignore[no-any-return, no-untyped-call]


def _dtype(hidden_ND: torch.Tensor) -> torch.dtype:
    """Return the number format of the head's products, as an output head on its own has it."""
    device = hidden_ND.device.type
    return (
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
    )


def _num_tensors(objective: LogitsObjective) -> int:
    """Return how many tensors of the size of a chunk's logits there are at once."""
    if objective.weights_N is None:
        return 1
    if objective.targets.tail in ("uniform", "full"):
        return 16
    return 1 if objective.temperature == 1 or objective.ce_weight is None else 2


class _HeadAndLoss(torch.autograd.Function):
    """The loss and, at once, its gradients; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        objective: LogitsObjective,
        chunk_size: int,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        gradients = HeadGradients(
            hidden_ND,
            weight_VD if weight_VD.requires_grad else None,
            bias_V if bias_V is not None and bias_V.requires_grad else None,
        )
        loss = torch.zeros((), device=hidden_ND.device)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            narrow_VD = weight_VD.to(dtype)
            largest_weight = torch.linalg.vector_norm(narrow_VD, torch.inf)
            for start in range(0, len(hidden_ND), chunk_size):
                rows = slice(start, start + chunk_size)
                hidden_CD = hidden_ND[rows].to(dtype)
                logits_CV = (hidden_CD @ narrow_VD.T).float()
                if bias_V is not None:
                    logits_CV += bias_V
                part, grad_CV = loss_and_gradient(objective.rows(rows), logits_CV)
                loss += part
                gradients.add(rows, grad_CV, hidden_CD, narrow_VD, largest_weight)
                del logits_CV, grad_CV  # Else they live until the next chunk's have been made.
        ctx.gradients = gradients
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise InputError(
                "fused_distillation_loss",
                expected="a backward pass without create_graph=True",
                found="one with it, though these gradients have no graph",
                next_step="Use distillation_loss, whose gradient can be differentiated.",
            )
        # Handed on in place: a copy of the head's gradient would be the most of all memory.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise InputError(
                "fused_distillation_loss",
                expected="one backward pass for each loss",
                found="a second one",
                next_step="Call fused_distillation_loss again, or use distillation_loss.",
            )
        return *gradients.scaled(grads[0]), None, None, None


def loss_and_gradient(
    objective: LogitsObjective, logits_CV: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of float32 logits, and its gradient with respect to them.

    The logits are overwritten, by the gradient if it needs no second tensor of their size.
    """
    if objective.targets.tail in ("uniform", "full") and objective.weights_N is not None:
        with torch.enable_grad():
            logits_CV.requires_grad_()
            loss = objective.loss(logits_CV)
        (grad_CV,) = torch.autograd.grad(loss, logits_CV)
        return loss.detach(), grad_CV
    divergence_only = replace(objective, ce_weight=None)
    labels_only = replace(objective, weights_N=None, temperature=1)
    if objective.weights_N is None:
        return _sparse_gradient(labels_only, logits_CV)
    if objective.ce_weight is None or objective.temperature == 1:
        return _sparse_gradient(objective, logits_CV)
    loss, gradient_CV = _sparse_gradient(divergence_only, logits_CV.clone())
    labels_loss, labels_gradient_CV = _sparse_gradient(labels_only, logits_CV)
    return loss + labels_loss, gradient_CV.add_(labels_gradient_CV)


def _sparse_gradient(
    objective: LogitsObjective, logits_CV: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return loss and gradient where both need the same softmax, in the memory of the logits."""
    targets, labels_C1 = objective.targets, objective.labels_N[:, None]
    if objective.ce_weight is None:
        labels_C1 = labels_C1[:, :0]  # They may be no ids where nothing counts them.
    scaled_CV = logits_CV.div_(objective.temperature)
    student_CE = scaled_CV.gather(1, targets.ids_NE).requires_grad_()
    label_C1 = scaled_CV.gather(1, labels_C1).requires_grad_()
    logsumexp_C = _softmax_(scaled_CV).requires_grad_()
    with torch.enable_grad():
        loss = logits_CV.new_zeros(())
        if objective.weights_N is not None:
            assert isinstance(targets, SparseTargets)
            losses_C = targets.losses(objective.divergence, student_CE, logsumexp_C)
            loss = loss + (objective.weights_N * losses_C).sum()
        if objective.ce_weight is not None:
            loss = loss + objective.ce_weight * (logsumexp_C - label_C1[:, 0]).sum()
    entries_CE, own_C1, common_C = torch.autograd.grad(
        loss, (student_CE, label_C1, logsumexp_C), allow_unused=True, materialize_grads=True
    )
    scaled_CV.mul_(common_C[:, None])
    scaled_CV.scatter_add_(1, targets.ids_NE, entries_CE).scatter_add_(1, labels_C1, own_C1)
    return loss.detach(), scaled_CV.div_(objective.temperature)


def _softmax_(logits_CV: torch.Tensor) -> torch.Tensor:
    """Overwrite logits with their softmax and return their logsumexp [C]."""
    top_C1 = logits_CV.amax(dim=1, keepdim=True)
    sums_C1 = logits_CV.sub_(top_C1).exp_().sum(dim=1, keepdim=True)
    logits_CV.div_(sums_C1)
    return (top_C1 + sums_C1.log())[:, 0]
