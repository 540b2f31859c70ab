"""The benchmark of students near the teacher: its draws, and that a seed's methods are paired."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from softtargets.capture import TeacherConfig, TransformersTeacher
from softtargets.fidelity.sample import TeacherSample
from softtargets.train.sparse import SparseTargets
from tests.benchmarks import near_students
from tests.benchmarks.dense_draws import as_sparse, concatenated, systematic, threshold
from tests.benchmarks.near import main, read_windows
from tests.benchmarks.near_methods import Method, measure_sizes, parse_method, targets_by
from tests.benchmarks.near_students import CutTeacher, Recipe, Text, mean_kl, train
from tests.benchmarks.near_tables import paired
from tests.fakes import TEXTS, write_corpus

Draw = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
RECIPE = Recipe(epochs=(1, 3), batch_size=2, learning_rate=1e-2, warmup_steps=2)


def make_probabilities(num_ids: int = 300) -> torch.Tensor:
    """Return sure, unsure and flat distributions [N, V], and one that has ids without any mass."""
    generator = torch.Generator().manual_seed(0)
    logits_NV = torch.randn((5, num_ids), generator=generator, dtype=torch.float64)
    logits_NV *= torch.tensor([8.0, 4.0, 2.0, 0.0, 3.0], dtype=torch.float64)[:, None]
    logits_NV[4, ::3] = -torch.inf
    return logits_NV.softmax(dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("num_draws", [1, 9, 17])
@pytest.mark.parametrize("draw", [systematic, threshold])
def test_the_mean_over_all_uniforms_is_the_probability(draw: Draw, num_draws: int) -> None:
    # A count is a step function of u, so that its mean over a grid of M points is exact to 1 / M.
    p_NV, num_points = make_probabilities(), 2000
    total_NV = torch.zeros_like(p_NV)
    for point in range(num_points):
        u_N = torch.full((len(p_NV),), (point + 0.5) / num_points, dtype=torch.float64)
        total_NV += draw(p_NV, u_N, num_draws)
    off = (total_NV / num_points - p_NV).abs().max().item()
    assert off <= 1.0001 / num_points / num_draws


def test_a_threshold_keeps_what_is_likely_exactly_and_draws_others_once() -> None:
    p_NV, num_draws = make_probabilities(), 17
    u_N = torch.rand(len(p_NV), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    estimates_NV = threshold(p_NV, u_N, num_draws)
    is_kept_NV = p_NV >= 1 / num_draws
    assert is_kept_NV.any()
    assert torch.equal(estimates_NV[is_kept_NV], p_NV[is_kept_NV])
    assert set(estimates_NV[~is_kept_NV].tolist()) == {0.0, 1 / num_draws}
    assert (estimates_NV[p_NV == 0] == 0).all()
    assert ((estimates_NV.sum(dim=1) - 1).abs() < 1 / num_draws).all()
    assert ((estimates_NV > 0).sum(dim=1) <= num_draws).all()


def test_a_systematic_sample_has_all_its_draws_and_rounds_each_count() -> None:
    p_NV, num_draws = make_probabilities(), 17
    counts_NV = systematic(p_NV, torch.full((len(p_NV),), 0.3), num_draws) * num_draws
    assert counts_NV.sum(dim=1).tolist() == pytest.approx([num_draws] * len(p_NV))
    assert ((counts_NV - p_NV * num_draws).abs() < 1).all()


def test_sparse_targets_are_the_dense_ones() -> None:
    p_NV = make_probabilities()
    estimates_NV = threshold(p_NV, torch.full((len(p_NV),), 0.7), 9)
    parts = [as_sparse(estimates_NV[:2]), as_sparse(estimates_NV[2:])]
    assert parts[0].ids_NE.shape[1] != parts[1].ids_NE.shape[1]
    found = concatenated(parts)
    again_NV = torch.zeros_like(p_NV).scatter_add_(
        1, found.ids_NE, found.log_targets_NE.exp().double()
    )
    torch.testing.assert_close(again_NV, estimates_NV, atol=1e-7, rtol=1e-6)


@pytest.fixture(scope="module")
def cut_and_text(
    tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path
) -> tuple[CutTeacher, Text]:
    directory = tmp_path_factory.mktemp("near")
    teacher = TransformersTeacher(TeacherConfig(name=str(tiny_teacher), dtype="float32"))
    teacher.load()
    windows = read_windows(teacher, write_corpus(directory / "text.jsonl", TEXTS), 16)[:6]
    sample = TeacherSample.read(teacher, windows)
    cut = CutTeacher.load(str(tiny_teacher), [], 1, teacher.device)
    return cut, Text.of(sample, cut.read(windows), keep_teacher=False)


def test_a_teacher_without_dropped_layers_is_the_teacher(
    cut_and_text: tuple[CutTeacher, Text], tiny_teacher: Path
) -> None:
    cut, text = cut_and_text
    assert mean_kl(cut, cut.top, text) == pytest.approx(0, abs=1e-6)
    shorter = CutTeacher.load(str(tiny_teacher), [1], 0, text.sample.teacher.device)
    windows = text.sample.windows
    other = Text.of(text.sample, shorter.read(windows), keep_teacher=True)
    assert mean_kl(shorter, shorter.top, other) > 0.1


@pytest.mark.slow
def test_students_of_a_seed_differ_in_their_targets_alone(
    cut_and_text: tuple[CutTeacher, Text], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, text = cut_and_text
    seen: list[list[int]] = []
    own_loss = near_students._loss

    def loss(
        cut: CutTeacher,
        top: torch.nn.Module,
        text: Text,
        targets: SparseTargets | None,
        places: list[int],
    ) -> torch.Tensor:
        seen.append(places)
        return own_loss(cut, top, text, targets, places)

    monkeypatch.setattr(near_students, "_loss", loss)

    def student(name: str, seed: int) -> tuple[list[float], list[list[int]]]:
        seen.clear()
        targets = targets_by(parse_method(name), text.sample, seed)
        return list(train(cut, text, targets, text, RECIPE, seed)), list(seen)

    first, order = student("threshold 9", 0)
    assert len(first) == 2
    assert len(order) == 3 * 3
    assert student("threshold 9", 0) == (first, order)
    for name in ("full", "top 6", "top 4 + 4", "independent 9", "systematic 9"):
        other, other_order = student(name, 0)
        assert other_order == order
        assert other != first
    assert student("threshold 9", 1)[1] != order


def test_a_seed_has_draws_of_its_own(cut_and_text: tuple[CutTeacher, Text]) -> None:
    _, text = cut_and_text
    for name in ("independent 9", "systematic 9", "threshold 9", "top 4 + 4"):
        first, again, other = (targets_by(parse_method(name), text.sample, s) for s in (0, 0, 1))
        assert first is not None
        assert again is not None
        assert other is not None
        assert torch.equal(first.ids_NE, again.ids_NE)
        assert first.ids_NE.shape != other.ids_NE.shape or not torch.equal(
            first.ids_NE, other.ids_NE
        )


def test_sizes_grow_with_entries_and_estimates_say_so(
    cut_and_text: tuple[CutTeacher, Text],
) -> None:
    _, text = cut_and_text
    names = ["full", "top 4", "top 9", "independent 9", "systematic 9", "threshold 9"]
    sizes = measure_sizes([parse_method(name) for name in names], text.sample)
    assert list(sizes) == names
    assert sizes["full"].bytes_per_target is None
    assert [sizes[name].is_estimate for name in names] == [False] * 4 + [True] * 2
    small, large = sizes["top 4"], sizes["top 9"]
    assert (small.entries, large.entries) == (4, 9)
    assert small.bytes_per_target is not None
    assert large.bytes_per_target is not None
    assert small.bytes_per_target < large.bytes_per_target


def test_full_is_the_limit_of_top_k(cut_and_text: tuple[CutTeacher, Text]) -> None:
    cut, text = cut_and_text
    full = near_students._loss(cut, cut.top, text, None, [0, 1])
    method = Method(name="all", draws="threshold", num_draws=1 << 24)
    whole = near_students._loss(cut, cut.top, text, targets_by(method, text.sample, 0), [0, 1])
    # What is stored has the cross-entropy, full the KL: they differ by the teacher's entropy.
    log_t_NV = text.log_teacher(slice(0, 2 * text.targets_per_window))
    entropy = -(log_t_NV.exp() * log_t_NV).sum(dim=1).mean().item()
    assert whole.item() - entropy == pytest.approx(full.item(), abs=1e-4)


def test_a_paired_difference_has_the_error_of_the_differences() -> None:
    mean, error = paired(np.array([1.0, 2.0, 3.0]), np.array([0.5, 1.0, 3.0]))
    assert mean == pytest.approx(0.5)
    assert error == pytest.approx(0.5 / math.sqrt(3))
    assert math.isnan(paired(np.array([1.0]), np.array([0.0]))[1])


def test_a_method_that_there_is_not_is_refused() -> None:
    for name in ("threshold", "nucleus 9", "top", "top x", "top 1 + 2 + 3", "threshold 9 + 9", ""):
        with pytest.raises(ValueError, match="expected one of"):
            parse_method(name)


@pytest.mark.slow
def test_a_run_goes_on_with_the_seeds_that_are_missing(tmp_path: Path, tiny_teacher: Path) -> None:
    text = str(write_corpus(tmp_path / "text.jsonl", [" ".join(TEXTS)]))
    given = (
        f"--teacher {tiny_teacher} --input {text} --held-out-input {text} --dropped 1 --windows 1"
    )
    given += (
        " --first-trained 0 --sequence-length 12 --epochs 1 2 --size-positions 100 --methods full"
    )
    options = [*given.split(), "top 4", "threshold 9"]
    main([str(tmp_path / "both"), *options, "--seeds", "2"])
    main([str(tmp_path / "one"), *options, "--seeds", "1"])
    main([str(tmp_path / "one"), *options, "--seeds", "2"])
    both, one = (
        json.loads((tmp_path / name / "near.json").read_text()) for name in ("both", "one")
    )
    assert both == one
    assert list(both["seeds"]) == ["0", "1"]
    assert len(both["seeds"]["0"]["threshold 9"]) == 2
    assert both["seeds"]["0"] != both["seeds"]["1"]
    lines = (tmp_path / "one" / "near.md").read_text().splitlines()
    assert any(line.startswith("| threshold 9 |") for line in lines)
    with pytest.raises(SystemExit, match="other options"):
        main([str(tmp_path / "one"), *options, "--seeds", "2", "--learning-rate", "1e-2"])
