"""Kernels that libraries compile for the shapes of batches on a CPU, and keep."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from softtargets.capture.teachers.positions import count_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LENGTH_STEP = 8


def keep_few_kernels() -> None:
    """Have this process keep few of the kernels that are compiled for shapes of batches.

    Hardly two batches have the same shape, and of the kernels of each oneDNN and PyTorch's layer
    above it keep 1,024 by default: hundreds of MB, kernel by kernel. They look at this when they
    are first used.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "64")


def padded_length(length: int, model: PreTrainedModel, device: torch.device) -> int:
    """Return to how many tokens a model's batch is padded, so that batches have few lengths.

    On a CPU with AMX, PyTorch's attention in bfloat16 or float16 compiles kernels for each length.
    Every thread keeps its own for good, and no setting bounds them.

    Args:
        length: of the longest sequence.
        model: what reads it.
        device: where.
    """
    if device.type != "cpu" or model.dtype == torch.float32:
        return length
    # A model may embed fewer positions than its configuration says.
    said = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    padded = -(-length // _LENGTH_STEP) * _LENGTH_STEP
    has_positions = all(padded <= most for most in (said, count_positions(model)) if most)
    return padded if has_positions else length
