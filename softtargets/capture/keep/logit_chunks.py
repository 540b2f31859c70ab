"""Logits of many positions, made and read in chunks: a vocabulary is wide.

How many logits exist at a time is decided here, and nowhere else.

Shapes: N positions of any windows, M of which logits are made at once, C of which they are read at
once, D width of the hidden states, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkSize:
    """Logits that the output head makes at once, and how many of these are read at once."""

    made: int
    read: int
    on_other_devices: int | None = None
    """Both on devices other than a CPU, if they differ there."""

    def rows(self, vocab_size: int, device: torch.device) -> tuple[int, int]:
        """Return both as positions, at least one."""
        made, read = self.made, self.read
        if self.on_other_devices is not None and device.type != "cpu":
            made = read = self.on_other_devices
        return max(1, made // vocab_size), max(1, read // vocab_size)


SELECTING = ChunkSize(made=1 << 24, read=1 << 22, on_other_devices=1 << 27)
"""For a build. On a CPU enough are made for the head's matrix product to be efficient, and so few
are read in float32, 16 MB, that they stay near its caches. On other devices a launch costs more
than a larger tensor."""
COMPARING = ChunkSize(made=1 << 23, read=1 << 19)
"""For rescoring, which makes logits of two passes, as many together as a build on a CPU, and some
ten float64 copies of what it reads, 4 MB each."""
MEASURING = ChunkSize(made=1 << 24, read=1 << 24)
"""For fidelity, which reads all that is made, in float32."""


def logit_chunks(
    hidden_ND: torch.Tensor,
    make: Callable[[torch.Tensor], torch.Tensor],
    vocab_size: int,
    size: ChunkSize,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield rows of hidden states and their logits [C, V], in order.

    Args:
        hidden_ND: the last hidden states.
        make: returns the logits [M, V] of some of them.
        vocab_size: of the logits.
        size: of the chunks.
    """
    # Not in inference mode, which a generator would leave switched on for its caller.
    made_rows, read_rows = size.rows(vocab_size, hidden_ND.device)
    # A last part of few rows would cost as many calls as a whole one.
    made_rows = max(made_rows - made_rows % read_rows, read_rows)
    for start in range(0, len(hidden_ND), made_rows):
        logits_MV = make(hidden_ND[start : start + made_rows])
        for at in range(0, len(logits_MV), read_rows):
            logits_CV = logits_MV[at : at + read_rows]
            yield slice(start + at, start + at + len(logits_CV)), logits_CV
