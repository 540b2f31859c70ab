"""Gradients under the factors by which a GradScaler multiplies losses, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from softtargets.train import JSD, ReverseKL, SkewKL
from tests.train.scales import FORMATS, Format, check_gradients, error, make_batch, make_head

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("topk", {}),
    ("topk", {"temperature": 2.0, "ce_weight": 0.3}),
    ("topk", {"ce_weight": 1.0}),
    *[("topk", {"tail": tail}) for tail in ("label", "renormalize", "uniform")],
    *[("topk", {"divergence": one}) for one in (ReverseKL(), JSD(0.5), SkewKL(0.1))],
    ("hybrid", {"ce_weight": 0.3}),
    # Of these, most gradients are below float16's smallest number until they are scaled.
    ("topk", {"num_targets": 8192}),
    ("topk", {"num_targets": 8192, "ce_weight": 0.3, "tail": "uniform"}),
    ("hybrid", {"num_targets": 8192}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options", "shape"),
    [(*one, (300, 24, 4)) for one in OPTIONS] + [(*OPTIONS[0], (517, 33, 100))],
)
@pytest.mark.parametrize("own", FORMATS, ids=str)
def test_gradients_are_as_exact_as_on_logits_at_every_scale(
    own: Format, kind: str, options: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    check_gradients(make_head(own, *shape[:2]), make_batch(kind), options, shape[2])


def test_few_targets_of_many_do_not_vanish_in_float16() -> None:
    """One over 8,192 times most probabilities is below float16's smallest number."""
    own = Format(products=torch.float16, hidden=torch.float16, weight=torch.float32)
    batch, head = make_batch("topk"), make_head(own, 4000, 24)
    options = {"num_targets": 8192}
    for found, exact in zip(
        head.gradients(batch, 2.0**19, options, chunk_size=8),
        head.exact_gradients(batch, options),
        strict=True,
    ):
        assert error(found, exact * 2.0**19) < 1e-3
    # The last one is that of the head: a row for each id.
    assert ((found != 0).any(dim=1) == (exact != 0).any(dim=1)).all()
