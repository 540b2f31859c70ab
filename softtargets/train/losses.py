"""Losses of a student against sparse soft targets.

Shapes: B batch, L tokens, V vocabulary, K kept entries, N positions with a target.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from softtargets.errors import InputError
from softtargets.stream.batch import Batch

_LARGEST_LOG_HEAD = -1e-7
"""The student's head is taken to leave at least this much, so that log(1 - head) stays finite."""


def distillation_loss(
    student_logits: torch.Tensor,
    batch: Batch,
    temperature: float = 1.0,
    ce_weight: float = 0.0,
) -> torch.Tensor:
    """Return the mean over all targets of the batch, a scalar in nats.

    (1 - ce_weight) * T^2 * KL(teacher || student) at temperature T
        + ce_weight * cross-entropy on the labels at temperature 1.

    The divergence counts each kept entry and, as one more outcome, the tail; see `forward_kl`.
    The factor T^2 keeps the gradient's scale over temperatures (Hinton et al. 2015, section 2.1).
    A batch without a single target gives 0.

    Args:
        student_logits: [B, L, V] for the batch's input ids; position t predicts token t + 1.
        batch: what `collate` returned, on the same device.
        temperature: one of the store's grid.
        ce_weight: from 0 to 1.

    Raises:
        InputError: shapes do not fit, the student's vocabulary is smaller than the teacher's, or
            the weight is out of range.
        TemperatureError: the temperature is not in the store's grid.
    """
    _check(student_logits, batch, ce_weight)
    targets = batch.soft_targets(temperature)
    places_N = targets.mask.flatten().nonzero()[:, 0]
    logits_NV = student_logits.flatten(0, 1).index_select(0, places_N).float()
    num_targets = max(1, len(places_N))
    loss = logits_NV.new_zeros(())
    if ce_weight < 1:
        kl_N = forward_kl(
            logits_NV if temperature == 1 else logits_NV / temperature,
            targets.ids.flatten(0, 1)[places_N],
            targets.logprobs.flatten(0, 1)[places_N],
            targets.tail_logmass.flatten()[places_N],
        )
        loss = loss + (1 - ce_weight) * temperature**2 * kl_N.sum() / num_targets
    if ce_weight > 0:
        # A target at position t belongs to the label of token t + 1.
        labels_N = batch["labels"].roll(-1, dims=1).flatten()[places_N]
        ce = functional.cross_entropy(logits_NV, labels_N, reduction="sum")
        loss = loss + ce_weight * ce / num_targets
    return loss


def forward_kl(
    scaled_logits_NV: torch.Tensor,
    ids_NK: torch.Tensor,
    logprobs_NK: torch.Tensor,
    tail_logmass_N: torch.Tensor,
) -> torch.Tensor:
    """Return KL(teacher || student) [N] in nats over the kept entries and the tail as a bucket.

    sum_K t log(t / s) + R_t log(R_t / R_s), where R_t and R_s are what the teacher and the student
    leave outside the kept entries. It is a lower bound of the full divergence (the log-sum
    inequality) and equal to it when every entry is kept. No vocabulary-sized tensor is made
    beyond the gradient.

    Args:
        scaled_logits_NV: the student's logits divided by the temperature, float32.
        ids_NK: kept ids.
        logprobs_NK: the teacher's log-probabilities of them; -inf means not kept.
        tail_logmass_N: log of the teacher's mass outside; -inf means none.
    """
    is_kept_NK = logprobs_NK > -torch.inf
    student_NK = scaled_logits_NV.gather(1, ids_NK)
    student_NK = student_NK - scaled_logits_NV.logsumexp(dim=1, keepdim=True)
    log_ratio_NK = (logprobs_NK - student_NK).masked_fill(~is_kept_NK, 0)
    head_N = (logprobs_NK.exp() * log_ratio_NK).sum(dim=1)
    student_head_N = student_NK.masked_fill(~is_kept_NK, -torch.inf).logsumexp(dim=1)
    student_tail_N = torch.log(-torch.expm1(student_head_N.clamp(max=_LARGEST_LOG_HEAD)))
    has_tail_N = tail_logmass_N > -torch.inf
    tail_ratio_N = (tail_logmass_N - student_tail_N).masked_fill(~has_tail_N, 0)
    return head_N + tail_logmass_N.exp() * tail_ratio_N


def _check(student_logits: torch.Tensor, batch: Batch, ce_weight: float) -> None:
    expected = tuple(batch["input_ids"].shape)
    if student_logits.ndim != 3 or tuple(student_logits.shape[:2]) != expected:
        raise InputError(
            "student_logits",
            expected=f"shape [{expected[0]}, {expected[1]}, V], like the batch's input ids",
            found=f"{list(student_logits.shape)}",
            next_step="Pass the model's logits for batch['input_ids'], not shifted.",
        )
    if student_logits.shape[2] < batch["vocab_size"]:
        raise InputError(
            "student_logits",
            expected=f"at least the teacher's vocabulary of {batch['vocab_size']} columns",
            found=f"{student_logits.shape[2]}",
            next_step="Give the student the teacher's tokenizer and vocabulary size.",
        )
    if not 0 <= ce_weight <= 1:
        raise InputError(
            "ce_weight",
            expected="a number from 0 to 1",
            found=f"{ce_weight}",
            next_step="0 is distillation alone, 1 is cross-entropy alone.",
        )
