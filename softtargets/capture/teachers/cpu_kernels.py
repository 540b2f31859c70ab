"""Kernels that libraries compile for the shapes of batches on a CPU, and keep."""

from __future__ import annotations

import os

import torch

from softtargets.targets import DType

_LENGTH_STEP = 8


def keep_few_kernels() -> None:
    """Have this process keep few of the kernels that are compiled for shapes of batches.

    Hardly two batches have the same shape, and of the kernels of each oneDNN and PyTorch's layer
    above it keep 1,024 by default: hundreds of MB, kernel by kernel. They look at this when they
    are first used.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "64")


def padded_length(length: int, most: int | None, dtype: DType, device: torch.device) -> int:
    """Return to how many tokens a batch is padded, so that batches have few lengths.

    On a CPU with AMX, PyTorch's attention in bfloat16 or float16 compiles kernels for each length.
    Every thread keeps its own for good, and no setting bounds them.

    Args:
        length: of the longest sequence.
        most: tokens that the model has positions for; None for any number.
        dtype: of the model.
        device: where it is.
    """
    if device.type != "cpu" or dtype == "float32":
        return length
    padded = -(-length // _LENGTH_STEP) * _LENGTH_STEP
    return padded if most is None or padded <= most else length
