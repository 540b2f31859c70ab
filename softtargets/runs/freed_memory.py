"""Memory that one step of a training frees, kept for the next."""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""
_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
_KEPT_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Have malloc keep what is freed, up to a gigabyte; return whether it will.

    By default glibc gives each block of over 32 MB back to the system at once. The system clears
    the same memory for the next tensor, which can take longer than to compute it. Nothing changes
    where somebody has set this already, or malloc is another.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "_threshold=" in tunables or not os.environ.keys().isdisjoint(_VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    is_kept = mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    return bool(is_kept)
