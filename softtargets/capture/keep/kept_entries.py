"""The entries that a selection keeps exactly: the highest logits of a position, and pinned ids.

Shapes: N positions of any windows, V vocabulary, K kept entries, P pinned ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from softtargets.capture.keep.selection import Pins, Selection
from softtargets.capture.keep.top import top


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptEntries:
    """Entries to keep; those with a logit of -inf are none."""

    top_logits_NK: torch.Tensor
    """The k highest logits, falling, by which the label's rank is found."""
    ids_NK: torch.Tensor
    logits_NK: torch.Tensor
    is_ragged: bool
    """Whether entries with a finite logit of their own may be none here."""

    @classmethod
    def of(
        cls, logits_NV: torch.Tensor, labels_N1: torch.Tensor, selection: Selection
    ) -> KeptEntries:
        """Find the entries that a selection keeps."""
        top_logits_NK, top_ids_NK = top(logits_NV, selection.k)
        ids_NK, logits_NK = top_ids_NK, top_logits_NK
        is_needed_NK = selection.needed(top_logits_NK, logits_NV)
        if is_needed_NK is not None:
            # `take` counts on the first.
            is_needed_NK[:, :1] = True
            logits_NK = top_logits_NK.masked_fill(~is_needed_NK, -torch.inf)
        if selection.pins.num_entries:
            ids_NK, logits_NK = _pin(logits_NV, labels_N1, selection.pins, ids_NK, logits_NK)
        return cls(
            top_logits_NK=top_logits_NK,
            ids_NK=ids_NK,
            logits_NK=logits_NK,
            is_ragged=is_needed_NK is not None or selection.pins.num_entries > 0,
        )

    def take(self, weights_NV: torch.Tensor) -> torch.Tensor:
        """Return the entries' weights [N, K], and set them to zero where they were."""
        if not self.ids_NK.shape[1]:
            return weights_NV[:, :0]
        if not self.is_ragged:
            taken_NK = weights_NV.gather(1, self.ids_NK)
            weights_NV.scatter_(1, self.ids_NK, 0.0)
            return taken_NK
        # What is not kept stays where it is; the first entry always is kept, and stands in for it.
        is_kept_NK = self.logits_NK > -torch.inf
        ids_NK = torch.where(is_kept_NK, self.ids_NK, self.ids_NK[:, :1])
        taken_NK = weights_NV.gather(1, ids_NK).masked_fill_(~is_kept_NK, 0)
        weights_NV.scatter_(1, ids_NK, 0.0)
        return taken_NK

    def sorted(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and logits by falling logit; equal logits by rising id."""
        if not self.is_ragged:
            return self.ids_NK, self.logits_NK
        return by_falling_logit(self.ids_NK, self.logits_NK)


def by_falling_logit(
    ids_NK: torch.Tensor, logits_NK: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return entries by falling logit; equal logits by rising id."""
    ids_NK, by_id = ids_NK.sort(dim=1)
    logits_NK, by_logit = logits_NK.gather(1, by_id).sort(dim=1, descending=True, stable=True)
    return ids_NK.gather(1, by_logit), logits_NK


def _pin(
    logits_NV: torch.Tensor,
    labels_N1: torch.Tensor,
    pins: Pins,
    ids_NK: torch.Tensor,
    logits_NK: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and logits with the pinned entries that are not among them."""
    pinned_P = torch.tensor(pins.ids, dtype=torch.int64, device=logits_NV.device)
    pinned_NP = pinned_P.expand(len(logits_NV), -1)
    columns = [*pinned_NP.unbind(dim=1), *([labels_N1[:, 0]] if pins.label else [])]
    for column_N in columns:
        column_N1 = column_N[:, None]
        is_there_N1 = ((ids_NK == column_N1) & (logits_NK > -torch.inf)).any(dim=1, keepdim=True)
        own_N1 = logits_NV.gather(1, column_N1).masked_fill(is_there_N1, -torch.inf)
        ids_NK = torch.cat([ids_NK, column_N1], dim=1)
        logits_NK = torch.cat([logits_NK, own_N1], dim=1)
    return ids_NK, logits_NK
