"""Whether draws follow the softmax of a reference: a z-test.

Every id gets a random sign. The mean sign at a position is estimated by what is kept there, and
known by the reference.

Shapes: N positions, V vocabulary, K entries, D draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from softtargets.capture import Selected, Threshold
from softtargets.capture.keep.selection import Selection


@dataclass
class DrawLaw:
    """Sums of what estimates are off, and of the largest variances that they may have.

    Independent draws have the largest variance of all designs, so for the others it is a bound.
    """

    selection: Selection
    vocab_size: int
    apart: float = 0.0
    variance: float = 0.0

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        self._signs_V = torch.from_numpy(rng.choice([-1.0, 1.0], self.vocab_size))

    def add(self, found: Selected, logits_NV: torch.Tensor) -> None:
        """Compare what was kept, at temperature 1 alone, with a reference's logits."""
        draws = self.selection.draws
        assert draws is not None
        assert found.drawn_ids_ND is not None
        probabilities_NV = logits_NV.double().softmax(dim=1)
        entry_ids_NK, ids_ND = found.ids_NK.long(), found.drawn_ids_ND.long()
        own_NK = probabilities_NV.gather(1, entry_ids_NK) * (found.logits_NK > -torch.inf)
        tail_N = 1 - own_NK.sum(dim=1)
        mean_N = probabilities_NV @ self._signs_V
        in_tail_N = mean_N - (own_NK * self._signs_V[entry_ids_NK]).sum(dim=1)
        drawn_N = (self._signs_V[ids_ND.clamp(min=0)] * (ids_ND >= 0)).sum(dim=1) / draws.num
        if isinstance(self.selection, Threshold):
            # Each id stands for 1 / D, and there are about as many as the tail has mass.
            variance_N = tail_N / draws.num
        else:
            drawn_N = drawn_N * tail_N
            variance_N = (tail_N**2 - in_tail_N**2) / draws.num
        self.apart += float((drawn_N - in_tail_N).sum())
        self.variance += float(variance_N.sum())

    @property
    def deviation(self) -> float:
        """Return by how many standard errors the estimates together are off."""
        return self.apart / math.sqrt(self.variance)


def deviation(
    selection: Selection, found: Selected, chunks: Iterable[tuple[slice, torch.Tensor]], size: int
) -> float:
    """Return the deviation of all positions.

    Args:
        selection: with draws.
        found: what was kept.
        chunks: rows with a reference's logits [C, V].
        size: of the vocabulary.
    """
    law = DrawLaw(selection, size)
    for rows, logits_CV in chunks:
        law.add(found.slice(rows.start, rows.stop), logits_CV)
    return law.deviation
