from __future__ import annotations

import numpy as np
import pytest
import torch

from softtargets.capture import TopK
from softtargets.capture.select import Selected, check_temperatures
from softtargets.errors import InputError, TeacherError
from tests.windows import select_in_numpy

GRID = (0.5, 1.0, 2.0)


def select(
    logits_NV: torch.Tensor, labels_N: torch.Tensor, k: int, grid: tuple[float, ...] = GRID
) -> Selected:
    selected = TopK(k=k).select(logits_NV.clone(), labels_N, grid)
    selected.check()
    return selected


@pytest.mark.parametrize("grid", [GRID, (1.0,), (1.0, 2.0), (0.7, 1.0, 2.0, 3.0, 4.0)])
@pytest.mark.parametrize(
    ("positions", "vocab_size", "k"),
    [(1, 1, 1), (7, 300, 1), (5, 300, 64), (3, 64, 64), (2, 2, 1), (9, 5000, 8), (4, 8192, 64)],
)
@pytest.mark.parametrize("scale", [0.1, 3.0, 50.0])
def test_against_sorting_everything_in_float64(
    positions: int, vocab_size: int, k: int, scale: float, grid: tuple[float, ...]
) -> None:
    generator = torch.Generator().manual_seed(vocab_size + k)
    logits_NV = scale * torch.randn((positions, vocab_size), generator=generator)
    labels_N = torch.randint(0, vocab_size, (positions,), generator=generator)
    found = select(logits_NV, labels_N, k, grid).numpy(grid)
    expected = select_in_numpy(logits_NV.numpy(), labels_N.numpy(), k, grid)
    for name in ("ids_TK", "logits_TK", "num_entries_T", "label_logit_T", "label_rank_T"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    # Also the smallest tails are right to float32 precision, relative to themselves.
    np.testing.assert_allclose(found.tail_mass_TG, expected.tail_mass_TG, rtol=2e-5, atol=1e-38)


def test_a_tail_below_float32_of_the_whole_is_kept() -> None:
    logits_NV = torch.full((1, 1000), -40.0)
    logits_NV[0, 3] = 0.0
    tail = select(logits_NV, torch.tensor([3]), 1).tail_mass_NG[0, 1].item()
    assert tail == pytest.approx(999 * np.exp(-40), rel=1e-5)


def test_equal_logits_are_ordered_by_id() -> None:
    logits_NV = torch.tensor([[1.0, 2.0, 1.0, 2.0, 2.0]])
    selected = select(logits_NV, torch.tensor([0]), 4)
    assert selected.ids_NK[0, :3].tolist() == [1, 3, 4]
    assert selected.label_rank_N.tolist() == [3]


def test_the_label_rank_is_right_inside_and_outside_the_top() -> None:
    logits_NV = torch.arange(100.0)[None].repeat(100, 1)
    ranks = select(logits_NV, torch.arange(100), 10).label_rank_N
    assert ranks.tolist() == list(range(99, -1, -1))


def test_logits_of_minus_infinity_are_not_kept() -> None:
    logits_NV = torch.full((1, 6), -torch.inf)
    logits_NV[0, 2], logits_NV[0, 4] = 1.0, 0.0
    rows = select(logits_NV, torch.tensor([0]), 4).numpy(GRID)
    assert rows.num_entries_T.tolist() == [2]
    assert rows.ids_TK[0, :2].tolist() == [2, 4]
    assert rows.tail_mass_TG.tolist() == [[0.0, 0.0, 0.0]]
    assert rows.label_logit_T is not None
    assert rows.label_logit_T.tolist() == [-np.inf]
    assert np.exp(rows.logprobs_TK()).sum() == pytest.approx(1)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("at", [0, 70])
def test_logits_that_are_no_numbers_are_refused(bad: float, at: int) -> None:
    logits_NV = torch.randn((3, 100))
    logits_NV[1, at] = bad
    with pytest.raises(TeacherError, match="found NaN, infinity"):
        select(logits_NV, torch.tensor([0, 1, 2]), 8)


def test_only_minus_infinity_is_refused() -> None:
    with pytest.raises(TeacherError, match="nothing but -inf"):
        select(torch.full((1, 9), -torch.inf), torch.tensor([0]), 2)


@pytest.mark.parametrize("k", [0, -1, 301])
def test_k_must_fit_the_vocabulary(k: int) -> None:
    with pytest.raises(
        InputError, match=f"from 1 to the teacher's vocabulary size, 300; found {k}"
    ):
        TopK(k=k).check(300)


def test_the_grid_is_sorted_and_without_doubles() -> None:
    assert check_temperatures((2, 1.0, 2.0)) == (1.0, 2.0)
    for bad in ((), (0.0,), (-1.0,), (float("nan"),), (float("inf"),)):
        with pytest.raises(InputError, match="--temperature: expected one or more positive"):
            check_temperatures(bad)
