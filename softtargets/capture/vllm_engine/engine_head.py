"""The output head of a model that vLLM has loaded, checked against the logits that vLLM makes.

Shapes: V vocabulary, D width of the hidden states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from softtargets.capture.teachers.live_head import LiveHead, random_hidden_states
from softtargets.errors import TeacherError

_SUMS = 4
"""By as many standard errors of a sum of rounded products may kernels differ."""


def engine_head(
    tensors: Mapping[str, torch.Tensor], after: Mapping[str, float | None], vocab_size: int
) -> LiveHead | None:
    """Return a head without what pads its vocabulary; None if its weights are not there.

    Args:
        tensors: its weights and bias.
        after: scale and soft cap of its logits; None where there is none.
        vocab_size: of the model.
    """
    weight_VD, bias_V = tensors.get("weight_VD"), tensors.get("bias_V")
    if weight_VD is None or weight_VD.ndim != 2 or len(weight_VD) < vocab_size:
        return None
    scale = after.get("scale")
    return LiveHead(
        weight_VD=weight_VD[:vocab_size],
        bias_V=None if bias_V is None else bias_V[:vocab_size],
        scale=1.0 if scale is None else scale,
        divisor=1.0,
        softcap=after.get("softcap"),
    )


def check_head(
    head: LiveHead | None, logits: Callable[[torch.Tensor], torch.Tensor], name: str
) -> LiveHead:
    """Return a head whose logits are those that vLLM makes, up to the order of sums.

    Raises:
        TeacherError: they are others, or the head's weights are not known.
    """
    if head is not None:
        hidden_ND = random_hidden_states(head)
        own_NV, found_NV = logits(hidden_ND), head.logits(hidden_ND)
        bound_N1 = _rounding(head) * own_NV.abs().amax(dim=1, keepdim=True)
        if own_NV.shape == found_NV.shape and ((own_NV - found_NV).abs() <= bound_N1).all():
            return head
    raise TeacherError(
        name,
        expected="an output head of weights as the model's file has them, whose logits are vLLM's",
        found="none" if head is None else "one with other logits",
        next_step="Omit --hidden-states, or pass the directory of the model with --teacher.",
    )


def _rounding(head: LiveHead) -> float:
    """Return by which share of a row's largest logit it may change: sums are made in float32."""
    width, dtype = head.weight_VD.shape[1], head.weight_VD.dtype
    of_sums = _SUMS * math.sqrt(width) * torch.finfo(torch.float32).eps
    return of_sums + (0 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps)
