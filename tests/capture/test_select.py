from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
import torch

from softtargets.capture import Draws, Hybrid, Pins, Sampled, TopK, TopP
from softtargets.capture.keep.sampling import draw, starts, uniforms
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import (
    Selection,
    check_selection,
    check_temperatures,
)
from softtargets.capture.keep.selector import select as select_any
from softtargets.capture.keep.stored_form import schema_parts
from softtargets.errors import InputError, TeacherError
from softtargets.kinds import TargetSchema
from softtargets.targets import SoftTargets, pack
from tests.windows import select_in_numpy

GRID = (0.5, 1.0, 2.0)
blocks_module = sys.modules["softtargets.capture.keep.weight_blocks"]
draws_module = sys.modules["softtargets.capture.keep.sampling"]


def select(
    logits_NV: torch.Tensor, labels_N: torch.Tensor, k: int, grid: tuple[float, ...] = GRID
) -> Selected:
    selected = select_any(logits_NV.clone(), labels_N, TopK(k=k), grid)
    selected.check()
    return selected


def schema_of(
    selection: Selection, vocab_size: int, grid: tuple[float, ...] = GRID
) -> TargetSchema:
    return TargetSchema(
        vocab_size=vocab_size,
        tokenizer_vocab_size=vocab_size,
        temperatures=grid,
        label_logits=True,
        **schema_parts(selection, "float32", grid, vocab_size, label_logits=True),
    )


def capture(
    logits_NV: torch.Tensor,
    selection: Selection,
    grid: tuple[float, ...] = GRID,
    window_id: str = "0" * 32,
) -> SoftTargets:
    """Return what a store of the selection has of logits, packed and unpacked."""
    num_positions, vocab_size = logits_NV.shape
    uniforms_ND = None
    if selection.draws is not None:
        draws = selection.draws
        if draws.design == "independent":
            found = uniforms(window_id, 0, num_positions, draws.num, draws.seed)
        else:
            found = starts(window_id, 0, num_positions, draws.seed)[:, None]
        uniforms_ND = torch.from_numpy(found)
    labels_N = torch.arange(num_positions) % vocab_size
    selected = select_any(logits_NV.clone(), labels_N, selection, grid, uniforms_ND=uniforms_ND)
    selected.check()
    schema = schema_of(selection, vocab_size, grid)
    return pack(selected.numpy(schema), schema).unpack()


def random_logits(num_positions: int, vocab_size: int, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(vocab_size + num_positions)
    return scale * torch.randn((num_positions, vocab_size), generator=generator)


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
    schema = schema_of(TopK(k=k), vocab_size, grid)
    found = select(logits_NV, labels_N, k, grid).numpy(schema)
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
    assert selected.label_rank_N is not None
    assert selected.label_rank_N.tolist() == [3]


def test_the_label_rank_is_right_inside_and_outside_the_top() -> None:
    logits_NV = torch.arange(100.0)[None].repeat(100, 1)
    ranks = select(logits_NV, torch.arange(100), 10).label_rank_N
    assert ranks is not None
    assert ranks.tolist() == list(range(99, -1, -1))


def test_logits_of_minus_infinity_are_not_kept() -> None:
    logits_NV = torch.full((1, 6), -torch.inf)
    logits_NV[0, 2], logits_NV[0, 4] = 1.0, 0.0
    rows = select(logits_NV, torch.tensor([0]), 4).numpy(schema_of(TopK(k=4), 6))
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
        check_selection(TopK(k=k), 300, GRID)


def test_the_grid_is_sorted_and_without_doubles() -> None:
    assert check_temperatures((2, 1.0, 2.0)) == (1.0, 2.0)
    for bad in ((), (0.0,), (-1.0,), (float("nan"),), (float("inf"),)):
        with pytest.raises(InputError, match="--temperature: expected one or more positive"):
            check_temperatures(bad)


@pytest.mark.parametrize("temperature", GRID)
@pytest.mark.parametrize("p", [0.3, 0.9, 0.999])
def test_topp_keeps_the_fewest_that_reach_the_mass(p: float, temperature: float) -> None:
    logits_NV = random_logits(20, 500)
    targets = capture(logits_NV, TopP(p=p, temperature=temperature, k_min=2, k=64))
    sorted_NV = (logits_NV.double() / temperature).softmax(dim=1).sort(descending=True).values
    reached_NV = sorted_NV.cumsum(dim=1) >= p
    # As many as come before the mass is reached, and the one that reaches it.
    expected_N = ((~reached_NV).sum(dim=1) + 1).clamp(2, 64)
    assert targets.num_entries_T.tolist() == expected_N.tolist()
    exact = select_in_numpy(logits_NV.numpy(), np.zeros(20, np.int64), 64, GRID)
    for row, count in enumerate(targets.num_entries_T):
        assert targets.ids_TK[row, :count].tolist() == exact.ids_TK[row, :count].tolist()
        expected = 1 - sorted_NV[row, :count].sum().item()
        tail = targets.tail_mass_TG[row, GRID.index(temperature)]
        assert tail == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("selection", [TopK(k=4), TopP(p=0.5, k=16), Hybrid(k=4)])
def test_pinned_ids_are_kept_and_leave_the_tail(selection: TopK | TopP | Hybrid) -> None:
    logits_NV = random_logits(30, 500)
    pinned = dataclasses.replace(selection, pins=Pins(ids=(0, 499), label=True))
    targets, plain = capture(logits_NV, pinned), capture(logits_NV, selection)
    probabilities_NV = logits_NV.double().softmax(dim=1)
    for row in range(30):
        kept = targets.ids_TK[row, : targets.num_entries_T[row]].tolist()
        before = plain.ids_TK[row, : plain.num_entries_T[row]].tolist()
        assert set(kept) == {*before, 0, 499, row}
        assert len(kept) == len(set(kept))
        expected = 1 - probabilities_NV[row, kept].sum().item()
        assert targets.tail_mass_TG[row, 1] == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert np.array_equal(targets.logits_TK[row, : len(kept)], logits_NV[row, kept])
    if isinstance(selection, Hybrid):
        samples = targets.samples
        assert samples is not None
        assert not np.isin(samples.ids_S, [0, 499]).any()


def test_the_label_alone_can_be_pinned() -> None:
    targets = capture(torch.arange(10.0).repeat(3, 1), TopK(k=3, pins=Pins(label=True)), (1.0,))
    for row in range(3):
        assert targets.ids_TK[row, : targets.num_entries_T[row]].tolist() == [9, 8, 7, row]


def test_a_pinned_id_that_is_in_the_top_is_kept_once() -> None:
    logits_NV = torch.arange(10.0)[None]
    targets = capture(logits_NV, TopK(k=3, pins=Pins(ids=(9, 1))), (1.0,))
    assert targets.ids_TK[0, : targets.num_entries_T[0]].tolist() == [9, 8, 7, 1]


@pytest.mark.slow
@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("vocab_size", [64, 200, 257])
def test_ids_are_drawn_as_often_as_the_teacher_says(vocab_size: int, k: int) -> None:
    """Pearson's statistic over 200,000 draws, against its mean and deviation."""
    logits_1V = random_logits(1, vocab_size, scale=2.0)
    draws = Draws(num=50, temperature=2.0, design="independent")
    selection = Hybrid(k=k, draws=draws) if k else Sampled(draws=draws)
    targets = capture(logits_1V.expand(4000, -1), selection)
    samples = targets.samples
    assert samples is not None
    counts_V = np.bincount(samples.ids_S, weights=samples.counts_S, minlength=vocab_size)
    assert counts_V.sum() == 200_000
    shares_V = (logits_1V[0].double() / 2).softmax(dim=0).numpy()
    if k:
        shares_V[targets.ids_TK[0]] = 0
        shares_V /= shares_V.sum()
        assert (counts_V[targets.ids_TK[0]] == 0).all()
    possible_V = shares_V > 0
    assert deviation(counts_V[possible_V], 200_000 * shares_V[possible_V]) < 5
    # The negative control: draws at another temperature would be noticed.
    other_V = (logits_1V[0].double() / 1.9).softmax(dim=0).numpy()[possible_V]
    expected_V = 200_000 * other_V / other_V.sum()
    assert deviation(counts_V[possible_V], expected_V) > 5


def deviation(counts: np.ndarray, expected: np.ndarray) -> float:
    """Return by how many standard deviations the chi-square statistic exceeds its mean."""
    freedom = len(counts) - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float((statistic - freedom) / np.sqrt(2 * freedom))


def test_draws_depend_on_window_position_and_seed_alone() -> None:
    first_TD = uniforms("ab" * 16, 0, 5, 7, seed=0)
    assert np.array_equal(first_TD, uniforms("ab" * 16, 0, 5, 7, seed=0))
    assert np.array_equal(first_TD[:3], uniforms("ab" * 16, 0, 3, 7, seed=0))
    for other_TD in (
        uniforms("ab" * 16, 1, 5, 7, seed=0),
        uniforms("ab" * 16, 0, 5, 7, seed=1),
        uniforms("ab" * 15 + "ac", 0, 5, 7, seed=0),
    ):
        assert not np.isin(other_TD, first_TD).any()
    many = uniforms("ab" * 16, 0, 1000, 100, seed=0)
    assert 0 <= many.min() < 1e-4 < 1 - 1e-4 < many.max() < 1


def test_nothing_is_drawn_where_the_head_is_all_there_is() -> None:
    logits_NV = torch.full((3, 100), -torch.inf)
    logits_NV[:, 10:12] = 1.0
    logits_NV[1, 50:60] = 0.0
    targets = capture(logits_NV, Hybrid(k=2, draws=Draws(num=9)))
    samples = targets.samples
    assert samples is not None
    assert samples.num_samples_T[0] == samples.num_samples_T[2] == 0
    assert samples.counts_S.sum() == 9
    assert ((samples.ids_S >= 50) & (samples.ids_S < 60)).all()
    assert (targets.tail_mass_TG[0] == 0).all()


def test_a_tail_too_small_to_draw_from_has_no_mass() -> None:
    logits_NV = torch.full((1, 200), -150.0)
    logits_NV[0, 3] = 0.0
    targets = capture(logits_NV, Hybrid(k=1, draws=Draws(num=4)), (1.0, 2.0))
    assert targets.samples is not None
    assert len(targets.samples.ids_S) == 0
    # At other temperatures it may have some.
    assert targets.tail_mass_TG[0, 0] == 0 < targets.tail_mass_TG[0, 1]


def test_an_id_without_weight_is_never_drawn() -> None:
    weights_1V = torch.zeros((1, 300))
    weights_1V[0, [70, 140]] = 0.5
    ends = torch.tensor([[0.0, 0.5, 1 - 2.0**-32]], dtype=torch.float64)
    assert draw(weights_1V, ends).tolist() == [[70, 140, 140]]


def test_draws_from_a_large_vocabulary_are_those_of_float64() -> None:
    weights_NV = random_logits(3, 150_000, scale=0.1).softmax(dim=1)
    uniforms_ND = torch.from_numpy(uniforms("cd" * 16, 0, 3, 1000, seed=0))
    sums_NV = weights_NV.numpy().astype(np.float64).cumsum(axis=1)
    found_ND = draw(weights_NV, uniforms_ND).numpy()
    for sums_V, uniforms_D, found_D in zip(sums_NV, uniforms_ND.numpy(), found_ND, strict=True):
        assert (found_D == np.searchsorted(sums_V, uniforms_D * sums_V[-1], side="right")).all()


@pytest.mark.parametrize("vocab_size", [1, 63, 64, 65, 300, 4096])
def test_many_draws_are_those_that_few_at_once_are(
    vocab_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held in memory at once decides nothing; the last block may be short."""
    weights_NV = random_logits(7, vocab_size).softmax(dim=1)
    uniforms_ND = torch.from_numpy(uniforms("ef" * 16, 0, 7, 50, seed=0))
    expected_ND = draw(weights_NV, uniforms_ND)
    assert ((expected_ND >= 0) & (expected_ND < vocab_size)).all()
    monkeypatch.setattr(blocks_module, "_PAIRS_AT_ONCE", 13)
    assert torch.equal(draw(weights_NV, uniforms_ND), expected_ND)


@pytest.mark.slow
def test_only_so_many_draws_have_their_block_in_memory_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a block for each, 64 float64, these draws would take 134 MB."""
    seen = []
    offsets = draws_module._offsets

    def watched(own_PB: torch.Tensor, aims_P: torch.Tensor) -> torch.Tensor:
        seen.append(own_PB.numel())
        found: torch.Tensor = offsets(own_PB, aims_P)
        return found

    monkeypatch.setattr(draws_module, "_offsets", watched)
    draw(random_logits(64, 1000).softmax(dim=1), torch.rand((64, 1 << 12), dtype=torch.float64))
    assert sum(seen) == 64 * (1 << 12) * 64
    assert max(seen) <= 1 << 20


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (TopK(k=299, pins=Pins(ids=(1, 2))), "--top-k: .* 298 that the pinned ids and the draws"),
        (Hybrid(k=300), "--top-k: expected a number from 1 to .*, 299 .* found 300"),
        (TopK(pins=Pins(ids=(300,))), r"--pin: expected ids below .* 300; found \[300\]"),
        (TopK(pins=Pins(ids=(3, 3))), "--pin: expected ids that differ"),
        (TopP(p=1.0), "--top-p: expected a mass above 0 and below 1; found 1.0"),
        (TopP(k_min=65), "--min-k: expected a number from 1 to --top-k, 64; found 65"),
        (TopP(temperature=3.0), "--select-temperature: expected one of the grid: 0.5, 1, 2"),
        (Sampled(draws=Draws(num=0)), "--draws: expected a number from 1 to 65536; found 0"),
        (Sampled(draws=Draws(seed=-1)), "--seed"),
        (Hybrid(draws=Draws(temperature=4.0)), "--select-temperature: .* found 4.0"),
    ],
)
def test_selections_that_do_not_fit_are_refused(selection: Selection, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_selection(selection, 300, GRID)
