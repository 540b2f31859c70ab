from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from softtargets.capture import Draws, Hybrid, TopK, TopP
from softtargets.capture.keep.selection import Selection
from softtargets.capture.keep.selector import select
from softtargets.capture.keep.top import top

SHAPES = [(1, 1), (3, 63), (2, 64), (4, 65), (3, 128), (5, 1000), (2, 4096 + 17), (3, 12_800)]


def assert_stable(logits_NV: torch.Tensor, k: int) -> None:
    """Compare with numpy's stable sort of everything."""
    order_NV = np.argsort(-logits_NV.double().numpy(), axis=1, kind="stable")
    logits_NK, ids_NK = top(logits_NV, k)
    assert np.array_equal(ids_NK.numpy(), order_NV[:, :k])
    assert torch.equal(logits_NK, logits_NV.gather(1, ids_NK))


@pytest.mark.parametrize("k", [1, 2, 16, 64, None])
@pytest.mark.parametrize("num_values", [1, 2, 7, 100])
@pytest.mark.parametrize("shape", SHAPES)
def test_equal_logits_are_kept_by_rising_id(
    shape: tuple[int, int], num_values: int, k: int | None
) -> None:
    """Few values, so that logits and the maxima of blocks are equal at the edge of the top."""
    generator = torch.Generator().manual_seed(num_values + shape[1])
    logits_NV = torch.randint(-num_values, num_values, shape, generator=generator) / 8
    assert_stable(logits_NV, min(k or shape[1], shape[1]))


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 16, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_of_every_format_are_kept_as_a_stable_sort_does(dtype: torch.dtype, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    logits_NV = (3 * torch.randn((20, 9_999), generator=generator)).to(dtype).float()
    assert_stable(logits_NV, k)


@pytest.mark.slow
@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 300)),
        elements=st.sampled_from(
            [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.4e38, -3.4e38, float("-inf")]
        ),
    ),
    st.integers(1, 300),
)
def test_zeros_of_both_signs_are_equal_and_extremes_have_their_place(
    logits_NV: np.ndarray, k: int
) -> None:
    assert_stable(torch.from_numpy(logits_NV), min(k, logits_NV.shape[1]))


def test_no_entries_are_no_work() -> None:
    logits_NK, ids_NK = top(torch.randn((3, 500)), 0)
    assert logits_NK.shape == ids_NK.shape == (3, 0)


@pytest.mark.parametrize(
    "selection",
    [TopK(k=4), TopP(p=0.5, k=4), TopP(p=1e-3, k_min=3, k=8), Hybrid(k=4, draws=Draws(num=8))],
)
def test_of_equal_logits_a_selection_keeps_the_first(selection: Selection) -> None:
    """Also where the vocabulary is looked at in blocks, and the second block begins the rest."""
    logits_NV = torch.zeros((3, 700))
    logits_NV[1, [650, 600, 690, 640, 699]] = 9.0
    logits_NV[2, 128:] = 1.0
    uniforms_ND = torch.rand((3, 8), dtype=torch.float64)
    selected = select(
        logits_NV, torch.zeros(3, dtype=torch.int64), selection, (1.0,), uniforms_ND=uniforms_ND
    )
    for row, expected in enumerate(([0, 1, 2, 3], [600, 640, 650, 690], [128, 129, 130, 131])):
        num_entries = int(selected.num_entries_N[row])
        found = selected.ids_NK[row, : min(num_entries, 4)].tolist()
        assert found == expected[: len(found)]
        assert num_entries >= 3
    if selected.drawn_ids_ND is not None:
        assert not set(selected.drawn_ids_ND[0].tolist()) & {0, 1, 2, 3}
