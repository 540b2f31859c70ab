"""What is in a store, wherever it lies, and a bit of a file that changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from softtargets.window import Window

SHARD = "shards/unit-000001.parquet"
"""A file of the small store that tests damage, or watch."""


def content_of(windows: Any) -> list[tuple[Any, ...]]:
    return [
        (window.window_id, window.source, window.input_ids_L.tobytes(), window.mask_T.tobytes(),
         *(part.tobytes() for part in arrays_of(window)))
        for window in windows
    ]  # fmt: skip


def arrays_of(window: Window) -> list[np.ndarray[Any, Any]]:
    targets = window.targets
    assert targets.label_rank_T is not None
    return [targets.ids_TK, targets.logits_TK, targets.tail_mass_TG, targets.label_rank_T]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
