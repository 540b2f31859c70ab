"""Systematic draws with counts, and the starting points of all that is drawn systematically."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from softtargets.capture import Draws, Hybrid, Sampled, Threshold
from softtargets.capture.keep.keeper import Keeper
from softtargets.capture.keep.sampling import draw, spread, starts
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Keep, Selection, describe_selection
from softtargets.capture.segments import segments_of
from tests.capture.test_threshold import (
    LOGITS,
    POINTS,
    ROUNDING,
    selected_at_all_points,
    softmax_at,
)
from tests.windows import make_tokens, topk_schema


@pytest.mark.slow
@pytest.mark.parametrize("num", [1, 8, 17])
@pytest.mark.parametrize("name", ["random", "flat", "peaked", "rounded", "-inf", "one id"])
def test_systematic_draws_are_unbiased_and_counts_are_rounded(name: str, num: int) -> None:
    logits_V = LOGITS[name]
    selected = selected_at_all_points(logits_V, Sampled(draws=Draws(num=num)))
    assert selected.drawn_ids_ND is not None
    counts_NV = np.zeros((POINTS, len(logits_V)), np.int64)
    rows_N1 = np.arange(POINTS)[:, None]
    np.add.at(counts_NV, (rows_N1, selected.drawn_ids_ND.numpy()), 1)
    means_V = num * softmax_at(logits_V, 1.0)
    assert (np.abs(counts_NV.mean(axis=0) - means_V) <= 2 / POINTS + ROUNDING * means_V).all()
    assert (counts_NV >= np.floor(means_V - 1e-5)).all()
    assert (counts_NV <= np.ceil(means_V + 1e-5)).all()


def test_systematic_draws_of_a_tail_are_unbiased() -> None:
    logits_V = LOGITS["random"]
    selected = selected_at_all_points(logits_V, Hybrid(k=4, draws=Draws(num=16)))
    assert selected.drawn_ids_ND is not None
    counts_V = np.bincount(selected.drawn_ids_ND.numpy().ravel(), minlength=len(logits_V))
    p_V = softmax_at(logits_V, 1.0)
    p_V[selected.ids_NK[0].numpy()] = 0
    means_V = 16 * p_V / p_V.sum()
    assert (np.abs(counts_V / POINTS - means_V) <= 2 / POINTS + ROUNDING * means_V).all()


@pytest.mark.slow
def test_systematic_draws_are_less_noisy_than_independent_ones() -> None:
    """Half the noise and less, of a distribution as teachers have them."""
    logits_V = -1.2 * torch.arange(1.0, 2001).log()
    p_V = softmax_at(logits_V, 1.0)
    weights_NV = torch.from_numpy(p_V).float().repeat(4000, 1)
    noise = {}
    generator = torch.Generator().manual_seed(0)
    for name in ("systematic", "independent"):
        shape = (4000, 1 if name == "systematic" else 17)
        uniforms_ND = torch.rand(shape, generator=generator, dtype=torch.float64)
        drawn_ND = draw(weights_NV, spread(uniforms_ND, 17) if shape[1] == 1 else uniforms_ND)
        counts_NV = np.zeros((4000, len(p_V)))
        np.add.at(counts_NV, (np.arange(4000)[:, None], drawn_ND.numpy()), 1)
        noise[name] = ((counts_NV / 17 - p_V) ** 2).sum(axis=1).mean()
    assert noise["independent"] == pytest.approx((1 - (p_V**2).sum()) / 17, rel=0.05)
    assert noise["systematic"] < 0.6 * noise["independent"]


@pytest.mark.parametrize("selection", [Threshold(), Sampled(), Hybrid(k=4)])
def test_what_is_drawn_depends_on_neither_chunks_nor_neighbours(selection: Selection) -> None:
    """A chunk of logits may begin anywhere, and a batch may have any segments."""
    rng = np.random.default_rng(0)
    schema = topk_schema()
    segments = segments_of(*(make_tokens(rng, schema, length, 1.0) for length in (9, 4, 30, 2)))
    counts = [len(one.positions_T) for one in segments]
    logits_NV = 3 * torch.randn((sum(counts), 500), generator=torch.Generator().manual_seed(0))
    keep = Keep(selection=selection, temperatures=(1.0, 2.0))
    whole = Keeper(keep, segments, torch.device("cpu"))
    for start in range(0, len(logits_NV), 7):
        rows = slice(start, min(start + 7, len(logits_NV)))
        whole.add(rows, logits_NV[rows])
    parts = []
    for segment, own_NV in zip(segments, logits_NV.split(counts), strict=True):
        keeper = Keeper(keep, [segment], torch.device("cpu"))
        keeper.add(slice(0, len(own_NV)), own_NV)
        parts.append(keeper.selected())
    expected, found = whole.selected(), Selected.concatenate(parts)
    for name in ("ids_NK", "logits_NK", "num_entries_N", "drawn_ids_ND", "drawn_logits_ND"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_starting_points_depend_on_window_position_and_seed_alone() -> None:
    first_T = starts("ab" * 16, 0, 5, seed=0)
    assert np.array_equal(first_T[:3], starts("ab" * 16, 0, 3, seed=0))
    for other_T in (
        starts("ab" * 16, 1, 5, seed=0),
        starts("ab" * 16, 0, 5, seed=1),
        starts("ab" * 15 + "ac", 0, 5, seed=0),
    ):
        assert not np.isin(other_T, first_T).any()
    many_T = starts("ab" * 16, 0, 10_000, seed=0)
    assert 0 <= many_T.min() < 1e-3 < 1 - 1e-3 < many_T.max() < 1


def test_an_identity_says_the_design_unless_it_is_what_older_releases_had() -> None:
    assert describe_selection(Sampled(draws=Draws(design="independent"))) == {
        "kind": "sampled",
        "draws": {"num": 32, "temperature": 1.0, "seed": 0},
    }
    assert describe_selection(Sampled())["draws"]["design"] == "systematic"
    assert describe_selection(Threshold()) == {
        "kind": "threshold",
        "draws": {"num": 17, "temperature": 1.0, "seed": 0, "design": "systematic"},
    }


def test_a_rare_id_beside_likely_ones_has_its_own_share() -> None:
    """Else it weighs far too much, or nothing, at a higher temperature."""
    weights_V = torch.rand(128, generator=torch.Generator().manual_seed(0))
    weights_V[63] = 1e-9  # The last of its block.

    def first(least: int) -> float:
        """Return the smallest number in [0, 1) that draws this id or a later one."""
        low, high = 0.0, 1.0
        while (middle := (low + high) / 2) not in (low, high):
            drawn = draw(weights_V[None], torch.tensor([[middle]], dtype=torch.float64))
            low, high = (low, middle) if int(drawn) >= least else (middle, high)
        return high

    share = float(weights_V[63].double() / weights_V.double().sum())
    assert first(64) - first(63) == pytest.approx(share, rel=1e-5)
