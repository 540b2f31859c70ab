"""Threshold and systematic draws.

With evenly spread starting points u the tests need no chance: an id that is drawn with probability
w is drawn for M w of M such points, and at most one more or less.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from softtargets.capture import Draws, Threshold
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Selection, check_selection
from softtargets.capture.keep.selector import select
from softtargets.capture.keep.threshold import NOT_DRAWN, draw_once
from softtargets.capture.keep.weight_blocks import WeightBlocks
from softtargets.errors import InputError

GRID = (0.5, 1.0, 2.0, 3.0)
POINTS = 2048
"""Starting points."""
FLOOR_ERROR = 1e-7
"""By how much of itself a running sum may be off."""
ROUNDING = 4e-6
"""By how much of itself a probability may be off, for float32's sake."""


def selected_at_all_points(
    logits_V: torch.Tensor, selection: Selection, grid: tuple[float, ...] = GRID
) -> Selected:
    """Return what is selected of the same logits at each of the starting points."""
    logits_NV = logits_V.float().repeat(POINTS, 1)
    starts_N1 = ((torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS)[:, None]
    labels_N = torch.arange(POINTS) % len(logits_V)
    selected = select(logits_NV, labels_N, selection, grid, uniforms_ND=starts_N1)
    selected.check()
    return selected


def softmax_at(logits_V: torch.Tensor, temperature: float) -> np.ndarray:
    """Return the probabilities in float64."""
    found: np.ndarray = (logits_V.float().double() / temperature).softmax(dim=0).numpy()
    return found


def random_logits(vocab_size: int, scale: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(vocab_size)
    return scale * torch.randn(vocab_size, generator=generator)


def rounded(vocab_size: int) -> torch.Tensor:
    """Return logits many of which are equal, as a bfloat16 teacher has them."""
    return (2 * random_logits(vocab_size, 1.0)).round() / 2


def few_possible(vocab_size: int, num_possible: int) -> torch.Tensor:
    logits_V = torch.full((vocab_size,), -torch.inf)
    logits_V[-num_possible:] = random_logits(num_possible, 1.0)
    return logits_V


LOGITS = {
    "random": random_logits(300, 2.0),
    "flat": random_logits(1000, 0.1),
    "peaked": random_logits(129, 8.0),
    "equal": torch.zeros(8),
    "equal, of another number": torch.zeros(41),
    "rounded": rounded(500),
    "one with exactly 1/8": torch.tensor([7.0, 1, 1, 1, 1, 1, 1, 3]).div(16).log(),
    "-inf": few_possible(200, 60),
    "two possible": few_possible(200, 2),
    "one possible": few_possible(100, 1),
    "one id": torch.tensor([3.0]),
}
NUMBERS = (1, 2, 3, 8, 17, 41, 64, 2000)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", GRID)
@pytest.mark.parametrize("num", NUMBERS)
@pytest.mark.parametrize("name", LOGITS)
def test_the_mean_estimate_is_the_probability_at_every_temperature(
    name: str, num: int, temperature: float
) -> None:
    logits_V = LOGITS[name]
    selection = Threshold(draws=Draws(num=num, temperature=temperature))
    selected = selected_at_all_points(logits_V, selection)
    q_V = softmax_at(logits_V, temperature)
    kept_K = kept_ids(selected)
    assert selected.num_entries_N.tolist() == [len(kept_K)] * POINTS
    likeliest = logits_V.argmax().item()
    assert kept_K[0] == likeliest
    # All that have 1/N, and none that is further below it than by rounding, but for the first.
    assert set(np.flatnonzero(q_V >= (1 + ROUNDING) / num)) <= set(kept_K)
    assert set(kept_K) <= {*np.flatnonzero(q_V >= (1 - ROUNDING) / num), likeliest}
    shares_V = drawn_shares(selected, len(logits_V))
    assert (shares_V[kept_K] == 0).all()
    shares_V[kept_K] = q_V[kept_K] * num
    for other, p_V in ((one, softmax_at(logits_V, one)) for one in GRID):
        ratio_V = np.divide(p_V, q_V, out=np.zeros_like(p_V), where=q_V > 0)
        mean_V = shares_V * ratio_V / num
        allowed_V = ratio_V / num / POINTS + ROUNDING * p_V
        assert (np.abs(mean_V - p_V) <= allowed_V).all(), other


def kept_ids(selected: Selected) -> list[int]:
    """Return the ids kept at the first position; they are the same at all."""
    count = int(selected.num_entries_N[0])
    ids_NK = selected.ids_NK[:, :count]
    assert (ids_NK == ids_NK[:1]).all()
    kept: list[int] = ids_NK[0].tolist()
    return kept


def drawn_shares(selected: Selected, vocab_size: int) -> np.ndarray:
    """Return in what share of positions each id was drawn, and check that it was once in each."""
    assert selected.drawn_ids_ND is not None
    ids_ND = selected.drawn_ids_ND.numpy()
    is_drawn_NV = np.zeros((len(ids_ND), vocab_size), np.int64)
    row_S, place_S = (ids_ND != NOT_DRAWN).nonzero()
    np.add.at(is_drawn_NV, (row_S, ids_ND[row_S, place_S]), 1)
    assert is_drawn_NV.max() <= 1
    shares_V: np.ndarray = is_drawn_NV.mean(axis=0)
    return shares_V


@pytest.mark.slow
@pytest.mark.parametrize("num", NUMBERS)
@pytest.mark.parametrize("name", LOGITS)
def test_the_noise_is_that_of_the_formula(name: str, num: int) -> None:
    """The sum over the tail of p tau - p^2, which is at most R tau."""
    logits_V = LOGITS[name]
    selected = selected_at_all_points(logits_V, Threshold(draws=Draws(num=num)), (1.0,))
    p_V = softmax_at(logits_V, 1.0)
    is_tail_V = np.ones(len(p_V), np.bool_)
    is_tail_V[kept_ids(selected)] = False
    shares_V = drawn_shares(selected, len(p_V))
    noise = ((shares_V / num**2 - 2 * shares_V / num * p_V + p_V**2) * is_tail_V).sum()
    expected = ((p_V / num - p_V**2) * is_tail_V).sum()
    assert noise == pytest.approx(expected, abs=is_tail_V.sum() / num**2 / POINTS, rel=1e-4)
    assert expected <= p_V[is_tail_V].sum() / num


@pytest.mark.slow
def test_ids_with_exactly_one_nth_are_kept() -> None:
    """In float32 1 / 41 and others are a little less than they are."""
    for num in range(1, 200):
        starts_N1 = torch.full((1, 1), 0.5, dtype=torch.float64)
        selection = Threshold(draws=Draws(num=num))
        selected = select(
            torch.zeros((1, num)), torch.tensor([0]), selection, GRID, uniforms_ND=starts_N1
        )
        assert selected.num_entries_N.item() == num
        assert selected.ids_NK[0].tolist() == list(range(num))


@pytest.mark.slow
@pytest.mark.parametrize("num", [1, 8, 17, 64, 4096])
@pytest.mark.parametrize("scale", [0.1, 3.0])
@pytest.mark.parametrize("vocab_size", [63, 64, 65, 4096, 262_144])
def test_what_is_drawn_is_what_the_definition_says(vocab_size: int, scale: float, num: int) -> None:
    """floor(F_i + u) > floor(F_(i-1) + u), with a sum that runs id by id in float64.

    The j-th drawn id is the one at which F + u reaches j.
    """
    logits_NV = random_logits(vocab_size, scale).repeat(6, 1)
    starts_N1 = torch.tensor([0.0, 1e-9, 0.3, 0.5, 0.9, 1 - 2.0**-53], dtype=torch.float64)[:, None]
    weights_NV = logits_NV.softmax(dim=1)
    weights_NV[weights_NV * num >= 1 - 1e-6] = 0
    weights_NV[:, logits_NV[0].argmax()] = 0
    scale_N1 = torch.full((6, 1), num, dtype=torch.float64)
    blocks = WeightBlocks(weights_NV)
    ids_ND = draw_once(blocks, blocks.sums_NM(), scale_N1, starts_N1, num).numpy()
    sums_V = num * weights_NV[0].numpy().astype(np.float64).cumsum()
    off = FLOOR_ERROR * num
    for u, ids_D in zip(starts_N1[:, 0].tolist(), ids_ND, strict=True):
        found = ids_D[ids_D != NOT_DRAWN]
        assert np.floor(sums_V[-1] + u - off) <= len(found) <= np.floor(sums_V[-1] + u + off)
        reached = np.arange(1, len(found) + 1)
        assert (sums_V[found] + u >= reached - off).all()
        assert (sums_V[found] - num * weights_NV[0, found].numpy() + u < reached + off).all()


def test_float32_would_not_do_for_the_running_sum() -> None:
    """The negative control of the test above: its tolerance notices what a naive sum gets wrong."""
    weights_V = random_logits(262_144, 0.1).softmax(dim=0)
    exact_V = weights_V.double().cumsum(dim=0)
    naive_V = torch.from_numpy(np.add.accumulate(weights_V.numpy()))
    assert (naive_V - exact_V).abs().max() > 10 * FLOOR_ERROR


@pytest.mark.parametrize("temperature", GRID)
def test_threshold_entries_are_by_falling_logit_then_rising_id(temperature: float) -> None:
    logits_NV = torch.stack([rounded(500)[torch.randperm(500)] for _ in range(50)])
    labels_N = torch.randint(0, 500, (50,))
    selection = Threshold(draws=Draws(num=24, temperature=temperature))
    starts_N1 = torch.rand((50, 1), dtype=torch.float64)
    selected = select(logits_NV.clone(), labels_N, selection, GRID, uniforms_ND=starts_N1)
    order_NV = np.argsort(-logits_NV.double().numpy(), axis=1, kind="stable")
    for row, count in enumerate(selected.num_entries_N.tolist()):
        assert selected.ids_NK[row, :count].tolist() == order_NV[row, :count].tolist()
    ranks_N = (logits_NV > logits_NV.gather(1, labels_N[:, None])).sum(dim=1)
    assert selected.label_rank_N is not None
    assert selected.label_rank_N.tolist() == ranks_N.tolist()
    assert selected.label_logit_N is not None
    assert torch.equal(selected.label_logit_N, logits_NV.gather(1, labels_N[:, None])[:, 0])


@pytest.mark.parametrize("vocab_size", [40, 4096, 5000])
@pytest.mark.parametrize("grid", [(1.0,), (1.0, 2.0), GRID])
def test_logits_of_any_number_format_are_selected_from_and_left(
    grid: tuple[float, ...], vocab_size: int
) -> None:
    logits_NV = random_logits(30 * vocab_size, 2.0).view(30, vocab_size).bfloat16()
    labels_N = torch.arange(30)
    starts_N1 = torch.rand((30, 1), dtype=torch.float64)
    before_NV = logits_NV.clone()
    expected, found = (
        select(one, labels_N, Threshold(), grid, uniforms_ND=starts_N1)
        for one in (logits_NV.float(), logits_NV)
    )
    assert torch.equal(logits_NV, before_NV)
    for name, own in expected.tensors().items():
        assert own.dtype == getattr(found, name).dtype
        assert torch.equal(own, getattr(found, name)), name


@pytest.mark.slow
@pytest.mark.parametrize("grid", [(1.0,), (0.5, 1.0), (1.0, 2.0), (0.7, 1.0, 3.0), GRID])
def test_tail_masses_are_those_outside_the_entries(grid: tuple[float, ...]) -> None:
    for name, temperature in product(("random", "peaked", "-inf"), grid):
        logits_V = LOGITS[name]
        selection = Threshold(draws=Draws(num=9, temperature=temperature))
        selected = selected_at_all_points(logits_V, selection, grid)
        kept_K = kept_ids(selected)
        for index, one in enumerate(grid):
            expected = np.delete(softmax_at(logits_V, one), kept_K).sum()
            found_N = selected.tail_mass_NG[:, index]
            assert found_N.numpy() == pytest.approx(expected, rel=2e-5, abs=1e-38)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Threshold(draws=Draws(num=0)), "--draws: expected a number from 1 to 65536; found 0"),
        (Threshold(draws=Draws(temperature=4.0)), "--select-temperature: .* found 4.0"),
        (Threshold(draws=Draws(seed=-1)), "--seed"),
        (
            Threshold(draws=Draws(design="independent")),
            "--draw-design: expected systematic, with --select threshold; found independent",
        ),
    ],
)
def test_threshold_selections_that_do_not_fit_are_refused(
    selection: Selection, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_selection(selection, 300, GRID)
