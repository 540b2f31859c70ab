"""The targets of segments, kept chunk by chunk while a teacher makes their logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from softtargets.capture.keep.sampling import starts, uniforms
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Draws, Keep, Threshold
from softtargets.capture.keep.selector import select
from softtargets.capture.segments import Segment


class Workspace:
    """float32 memory for chunks of logits: always the same, unless a larger one comes.

    On the host a new tensor of this size costs as much time as the selection itself: the system
    maps its pages one by one.
    """

    def __init__(self) -> None:
        self._tensors: dict[int, torch.Tensor] = {}

    def copy(self, logits_CV: torch.Tensor) -> torch.Tensor:
        """Return a chunk in float32, which may be overwritten."""
        return self._rows(0, logits_CV).copy_(logits_CV)

    def scratch(self, logits_CV: torch.Tensor) -> torch.Tensor:
        """Return memory of a chunk's shape to compute in."""
        return self._rows(1, logits_CV)

    def _rows(self, number: int, logits_CV: torch.Tensor) -> torch.Tensor:
        mine = self._tensors.get(number)
        if mine is None or len(mine) < len(logits_CV):
            mine = self._tensors[number] = torch.empty_like(logits_CV, dtype=torch.float32)
        return mine[: len(logits_CV)]


class Keeper:
    """Keeps the targets of N positions, those of some segments one after another.

    Args:
        keep: what to keep of each.
        segments: whose targets they are.
        device: of the logits.
        workspace: to compute in; that of another keeper of the same logits, or one of its own.
    """

    def __init__(
        self,
        keep: Keep,
        segments: Sequence[Segment],
        device: torch.device,
        workspace: Workspace | None = None,
    ) -> None:
        self._keep = keep
        labels = np.concatenate([segment.label_ids_T for segment in segments])
        self._labels_N = torch.from_numpy(labels.astype(np.int64)).to(device)
        draws = keep.selection.draws
        self._uniforms_ND = None if draws is None else _uniforms(segments, draws, device)
        self._workspace = workspace or Workspace()
        self._parts: list[Selected] = []

    def add(self, rows: slice | torch.Tensor, logits_CV: torch.Tensor) -> None:
        """Keep the targets of some rows, whose logits may be of any number format.

        They are a slice of the positions, or numbers of positions [C].
        """
        uniforms_ND = self._uniforms_ND
        is_drawn = uniforms_ND is not None
        is_left = isinstance(self._keep.selection, Threshold)
        self._parts.append(
            select(
                logits_CV if is_left else self._workspace.copy(logits_CV),
                self._labels_N[rows],
                self._keep.selection,
                self._keep.temperatures,
                uniforms_ND=None if uniforms_ND is None else uniforms_ND[rows],
                label_logits=self._keep.label_logits,
                scratch_NV=self._workspace.scratch(logits_CV) if is_drawn else None,
            )
        )

    def selected(self) -> Selected:
        """Return the targets of all rows, in the order in which they were added."""
        return Selected.concatenate(self._parts)


def _uniforms(segments: Sequence[Segment], draws: Draws, device: torch.device) -> torch.Tensor:
    """Return the numbers that decide what is drawn: [N, D], or [N, 1] for a systematic design."""
    parts = []
    for one in segments:
        of = one.window.window_id, one.start, len(one.label_ids_T)
        if draws.design == "independent":
            parts.append(uniforms(*of, draws.num, draws.seed))
        else:
            parts.append(starts(*of, draws.seed)[:, None])
    found = torch.from_numpy(np.concatenate(parts))
    if device.type == "mps":
        # It has no float64. No number may be rounded up to 1.
        found = found.float().clamp(max=1 - 2.0**-24)
    return found.to(device)
