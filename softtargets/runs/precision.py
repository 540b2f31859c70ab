"""The number format of forward passes; weights and optimizer stay in float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from softtargets.errors import InputError


def chosen_precision(dtype: str) -> str:
    """Return what a dtype means here: auto takes bfloat16 on a GPU that has it, else float32.

    Raises:
        InputError: it is float16 without a GPU, which computes nothing faster and less exactly.
    """
    has_gpu = torch.cuda.is_available()
    if dtype == "float16" and not has_gpu:
        raise InputError(
            "--dtype",
            expected="float32 or bfloat16 without a CUDA device",
            found=dtype,
            next_step="Omit it.",
        )
    if dtype != "auto":
        return dtype
    return "bfloat16" if has_gpu and torch.cuda.is_bf16_supported() else "float32"


def forward_context(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the context in which a student runs as it does in training."""
    if precision == "float32":
        return nullcontext()
    context: AbstractContextManager[Any] = torch.autocast(device.type, getattr(torch, precision))
    return context
