"""GGUF files, read more quickly than transformers has them read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
from gguf import GGUFReader


class _QuickReader(GGUFReader):
    """Reads a file into arrays of no class of their own, of which views are quickly made."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, np.asarray(value) if name == "data" else value)


@contextmanager
def read_once() -> Iterator[None]:
    """Have a file read once: transformers does it three times for some architectures.

    The reader makes arrays of all tokens one by one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gguf.GGUFReader", cache(_QuickReader))
        yield
