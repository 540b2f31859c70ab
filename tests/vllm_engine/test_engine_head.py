"""An output head is stored only if it makes vLLM's logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from softtargets.capture.teachers.live_head import LiveHead
from softtargets.capture.vllm_engine.engine_head import check_head, engine_head
from softtargets.errors import TeacherError

SIZE = 300


def head_of(dtype: torch.dtype, **after: float) -> LiveHead:
    weight_VD = torch.randn((SIZE + 20, 32), generator=torch.Generator().manual_seed(0))
    found = engine_head({"weight_VD": weight_VD.to(dtype)}, after, SIZE)
    assert found is not None
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_head_whose_sums_are_made_in_another_order_is_taken(dtype: torch.dtype) -> None:
    head = head_of(dtype, scale=0.5)
    assert len(head.weight_VD) == SIZE

    def logits(hidden_ND: torch.Tensor) -> torch.Tensor:
        return (hidden_ND.double() @ head.weight_VD.double().T * 0.5).to(dtype)

    assert check_head(head, logits, "name") is head


@pytest.mark.parametrize("after", [{"scale": 0.97}, {"softcap": 300.0}])
def test_a_head_that_makes_other_logits_is_refused(after: dict[str, Any]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        own = head_of(dtype)
        with pytest.raises(TeacherError, match="found one with other logits"):
            check_head(head_of(dtype, **after), own.logits, "name")


def test_weights_in_another_form_are_none() -> None:
    assert engine_head({}, {}, SIZE) is None
    assert engine_head({"weight_VD": torch.empty((0,))}, {}, SIZE) is None
    with pytest.raises(TeacherError, match="found none"):
        check_head(None, lambda hidden_ND: hidden_ND, "name")
