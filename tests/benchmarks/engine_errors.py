"""How far what an engine kept is from the softmax of transformers.

Shapes: C positions of a chunk, K entries, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from softtargets.capture import Selected
from softtargets.capture.keep.selection import Selection
from tests.draw_law import DrawLaw


@dataclass
class Errors:
    """Errors over all positions, at temperature 1."""

    selection: Selection
    vocab_size: int
    law: DrawLaw | None = None
    """Of the draws, if there are any."""
    tail_most: float = 0.0
    _num_same: int = 0
    _apart: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.selection.draws is not None:
            self.law = DrawLaw(self.selection, self.vocab_size)

    def add(self, found: Selected, logits_CV: torch.Tensor) -> None:
        """Compare what was kept with a reference's logits of the same positions."""
        logprobs_CV = logits_CV.double().log_softmax(dim=1)
        ids_CK = found.ids_NK.long()
        own_lse_C1 = found.logits_NK.double().logsumexp(dim=1, keepdim=True)
        own_CK = found.logits_NK.double() - own_lse_C1 + torch.log1p(-found.tail_mass_NG.double())
        other_CK = logprobs_CV.gather(1, ids_CK)
        self._apart.append((own_CK - other_CK).abs().flatten())
        expected_CK = logprobs_CV.topk(ids_CK.shape[1], dim=1).indices
        self._num_same += int((ids_CK[:, :, None] == expected_CK[:, None, :]).any(dim=2).sum())
        tail_C = 1 - other_CK.exp().sum(dim=1)
        apart = float((found.tail_mass_NG[:, 0].double() - tail_C).abs().max())
        self.tail_most = max(self.tail_most, apart)
        if self.law is not None:
            self.law.add(found, logits_CV)

    @property
    def same_ids(self) -> float:
        """Return the share of entries that are among as many of the reference's likeliest."""
        return self._num_same / sum(map(len, self._apart))

    @property
    def logprob_mean(self) -> float:
        """Return by how many nats log-probabilities are apart on average."""
        return float(torch.cat(self._apart).mean())

    @property
    def logprob_most(self) -> float:
        """Return by how many at most."""
        return float(torch.cat(self._apart).max())
