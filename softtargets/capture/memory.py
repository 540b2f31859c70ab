"""Memory of a device: how libraries say that it does not suffice, and how it is given back."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from softtargets.errors import TeacherError, error_text

_OUT_OF_MEMORY = re.compile(
    # cuBLAS, cuDNN and others, which ask for memory beside PyTorch's; the driver and MPS; the CPU.
    r"STATUS_ALLOC_FAILED|out of memory|can't allocate memory|not enough memory",
    re.IGNORECASE,
)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of PyTorch says that memory does not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


@contextmanager
def enough_memory(where: str, what: str, device: torch.device, next_step: str) -> Iterator[None]:
    """Report memory that does not suffice as what is wrong, and how to go on.

    Raises:
        TeacherError: the device's memory does not suffice.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise TeacherError(
            where,
            expected=f"enough memory on {device} for {what}",
            found=error_text(error),
            next_step=next_step,
        ) from error


def free_memory(device: torch.device) -> None:
    """Give back to the device what nothing refers to any more.

    An exception's traceback refers to all variables of its functions: call this outside of the
    `except` that caught it.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
