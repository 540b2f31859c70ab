"""The processes of one training, as torchrun and accelerate start them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed


@contextmanager
def closing_processes() -> Iterator[None]:
    """Let go of the process group at the end, if there is one.

    A process that ends while its group's threads run may be aborted after its last line.
    """
    try:
        yield
    finally:
        if distributed.is_available() and distributed.is_initialized():
            # What wraps the student holds the group.
            gc.collect()
            distributed.destroy_process_group()
