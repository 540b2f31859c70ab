from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from softtargets.capture import (
    Corpus,
    Draws,
    Hybrid,
    Pins,
    Sampled,
    Threshold,
    TopK,
    TopP,
    Windowing,
)
from softtargets.capture.keep.selection import Selection
from softtargets.fidelity.arms import Arm, compare_students, frozen_noise_arms, judge
from softtargets.fidelity.budget import Storage, fit_selections, fit_to_budget, sized
from softtargets.fidelity.gradients import compare_gradients, find_bias
from softtargets.fidelity.reconstruction import Candidate, reconstruct, targets_of
from softtargets.fidelity.sample import TeacherSample, bytes_per_token
from softtargets.fidelity.students import (
    Recipe,
    evaluate,
    gradient_difference,
    log_probabilities,
    make_student,
    online_loss,
    stored_loss,
    train_student,
)
from softtargets.train.sparse import Tail
from tests.fakes import FakeTeacher, build_config, build_store, write_corpus

V = 300


class SkewedTeacher(FakeTeacher):
    """Some tokens are likelier than others everywhere, so that gradients add up over positions."""

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        return super().hidden_states(input_ids_BL) + 2

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        return super().logits(hidden_ND - 2) / 2 + torch.linspace(-4, 4, V)


def make_sample(
    directory: Path,
    num_documents: int = 5,
    length: int = 16,
    teacher_class: type[FakeTeacher] = FakeTeacher,
) -> TeacherSample:
    """Return random texts, no window twice, read by the fake teacher."""
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(32, 127, 60))) for _ in range(num_documents)]
    corpus = Corpus(paths=(write_corpus(directory / "sample.jsonl", texts),))
    teacher = teacher_class()
    windowing = Windowing(sequence_length=length)
    windows = windowing.windows(corpus.documents(), teacher.tokenizer, Counter())
    return TeacherSample.read(teacher, list(windows), batch_tokens=64)


def full_distributions(sample: TeacherSample) -> torch.Tensor:
    return torch.cat([logits for _, logits in sample.chunks()])


@pytest.mark.slow
@pytest.mark.parametrize(
    "selection",
    [TopK(k=5), Sampled(draws=Draws(num=7)), Hybrid(k=3), Threshold(draws=Draws(num=7))],
)
def test_what_is_captured_is_what_a_build_stores(tmp_path: Path, selection: Selection) -> None:
    store = build_store(tmp_path, selection=selection, temperatures=(1.0,), label_logits=False)
    config, teacher = build_config(tmp_path), FakeTeacher()
    windows = config.windowing.windows(config.corpus.documents(), teacher.tokenizer, Counter())
    sample = TeacherSample.read(teacher, list(windows))
    captured = {one.window_id: one for one in sample.capture({"": selection})[""]}
    assert len(captured) == len(store) > 10
    for window in store:
        own, other = window.targets, captured[window.window_id].targets
        assert np.array_equal(own.ids_TK, other.ids_TK)
        np.testing.assert_allclose(own.tail_mass_TG, other.tail_mass_TG, atol=1e-6)
        if own.samples is not None:
            assert other.samples is not None
            assert np.array_equal(own.samples.ids_S, other.samples.ids_S)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(
    ("selection", "tail"),
    [
        (TopK(k=5), "uniform"),
        (TopK(k=5), "label"),
        (TopK(k=5), "renormalize"),
        (TopK(k=V), "uniform"),
        (TopP(p=0.8), "uniform"),
        (Sampled(draws=Draws(num=9)), "sampled"),
        (Hybrid(k=4, draws=Draws(num=6)), "sampled"),
        (Threshold(draws=Draws(num=9)), "sampled"),
    ],
)
def test_distances_are_those_of_the_dense_definition(
    tmp_path: Path, selection: Selection, tail: Tail, temperature: float
) -> None:
    sample = make_sample(tmp_path)
    candidate = Candidate(name="one", selection=selection, tail=tail)
    (found,) = reconstruct(sample, [candidate], (temperature,))
    t_NV = (full_distributions(sample).double() / temperature).softmax(dim=1)
    if selection.draws is not None:
        selection = type(selection)(draws=Draws(num=selection.draws.num, temperature=temperature))
        if isinstance(selection, Hybrid):
            selection = Hybrid(k=4, draws=selection.draws)
    if isinstance(selection, TopP):
        selection = TopP(p=0.8, temperature=temperature)
    windows = sample.capture({"": selection}, (temperature,))[""]
    kept_NV = targets_of(windows, tail, temperature).log_dense(V).double().exp()
    # Threshold draws are not normalised, which would bias them.
    off = 1 / 9 if isinstance(selection, Threshold) else 0
    torch.testing.assert_close(
        kept_NV.sum(dim=1), torch.ones(len(sample)).double(), atol=off + 1e-4, rtol=0
    )
    variation = 0.5 * (kept_NV - t_NV).abs().sum(dim=1).mean().item()
    assert found.total_variation == pytest.approx(variation, abs=1e-4)
    mean_variation = 0.5 * (kept_NV - t_NV).mean(dim=0).abs().sum().item()
    assert found.mean_variation == pytest.approx(mean_variation, abs=1e-4)
    entropies = [-torch.special.xlogy(p, p).sum(dim=1) for p in (kept_NV, t_NV)]
    difference = (entropies[0] - entropies[1]).abs().mean().item()
    assert found.entropy_error == pytest.approx(difference, abs=2e-3)
    kl = (torch.special.xlogy(t_NV, t_NV) - t_NV * kept_NV.log()).sum(dim=1).mean().item()
    assert found.kl == pytest.approx(kl, abs=1e-3)
    assert found.bytes_per_token == bytes_per_token(windows)


@pytest.mark.slow
def test_a_budget_is_used_up_and_not_exceeded(tmp_path: Path) -> None:
    sample = make_sample(tmp_path, num_documents=20)
    for kind in ("topk", "sampled", "hybrid", "threshold"):
        found = fit_to_budget(sample, kind, 15, Storage())
        assert found is not None
        selection, size = found
        assert size <= 15
        assert bytes_per_token(sample.capture({"": selection})[""]) == size
        number = selection.k + (selection.draws.num if selection.draws else 0)
        larger = sized(kind, round(1.2 * number) + 1, Storage())
        assert bytes_per_token(sample.capture({"": larger})[""]) > 15
        assert fit_to_budget(sample, kind, 1, Storage()) is None
        everything = fit_to_budget(sample, kind, 1e6, Storage())
        assert everything is not None
        number = everything[0].k + (everything[0].draws.num if everything[0].draws else 0)
        assert number == V - 1


@pytest.mark.slow
def test_the_noise_of_samples_averages_out_and_a_bias_does_not(tmp_path: Path) -> None:
    sample = make_sample(tmp_path, num_documents=90, teacher_class=SkewedTeacher)
    chosen = [
        Candidate(name="all", selection=TopK(k=V), tail="bucket"),
        Candidate(name="draws", selection=Sampled(draws=Draws(num=8)), tail="sampled"),
        Candidate(name="renormalised", selection=TopK(k=3), tail="renormalize"),
    ]
    found = compare_gradients(sample, chosen, [64, 1024, 4096])
    off = {(one.name, one.num_positions): one.difference for one in found}
    assert len(off) == 9
    # 64 times as many positions: an eighth of the noise.
    assert off["draws", 4096] / off["draws", 64] == pytest.approx(1 / 8, rel=0.5)
    # Of a bias some averages out too, as it has another sign at other positions.
    assert off["renormalised", 4096] > 0.25 * off["renormalised", 64]
    assert off["all", 4096] < 0.05 * off["draws", 4096]
    degrees = {one.name: one.degrees for one in found if one.num_positions == 4096}
    assert degrees["all"] < 0.1
    assert min(degrees["draws"], degrees["renormalised"]) > 1
    ratios = {one.name: one.norm_ratio for one in found if one.num_positions == 4096}
    assert ratios["draws"] == pytest.approx(1, abs=0.02)
    assert ratios["renormalised"] > 1.1


@pytest.mark.slow
def test_bias_is_seen_where_there_is_one(tmp_path: Path) -> None:
    results = find_bias(make_sample(tmp_path, num_documents=5), num_redraws=200)
    assert [one.is_unbiased for one in results] == [True] * 4 + [False] + [True] * 4
    assert [one.is_meant_to_fail for one in results] == [False] * 4 + [True] + [False] * 4


@pytest.mark.slow
def test_the_best_of_what_fits_comes_first(tmp_path: Path) -> None:
    sample = make_sample(tmp_path, num_documents=20)
    fits = fit_selections(sample, 15, Storage())
    assert {fit.selection.kind for fit in fits} == {"topk", "sampled", "hybrid", "threshold"}
    assert fits[-1].selection.kind == "topk"
    assert fits[0].degrees < fits[1].degrees
    assert all(13 < fit.bytes_per_token <= 15 for fit in fits)
    assert {fit.num_positions for fit in fits} == {len(sample)}
    # Another grid, a label's logit and a pinned id take bytes of their own.
    rich = replace(sample, label_logits=True)
    storage = Storage(temperatures=(1.0, 2.0), pins=Pins(ids=(7,)))
    fewer = fit_selections(rich, 27, storage)
    fits = fit_selections(sample, 27, Storage())
    assert {fit.selection.kind for fit in fewer} == {"topk", "hybrid"}
    ks = {fit.selection.kind: fit.selection.k for fit in fits}
    assert all(fit.selection.k < ks[fit.selection.kind] for fit in fewer)
    assert all(fit.selection.pins == storage.pins for fit in fewer)
    assert fit_selections(sample, 1, Storage()) == []


def test_online_and_stored_hidden_states_give_the_same_loss(tmp_path: Path) -> None:
    sample = make_sample(tmp_path)
    torch.manual_seed(0)
    student = make_student(V, 32, 1)
    places = [3, 0, 7]
    windows, head = sample.capture_hidden_states()
    losses = [online_loss(sample), stored_loss(windows, "full", teacher_head=head)]
    exact = []
    for window in (sample.windows[place] for place in places):
        ids_1L = torch.from_numpy(window.input_ids_L).long()[None]
        log_s_TV = student(ids_1L).logits[0, :-1].log_softmax(1)
        teacher_TV = sample.teacher.logits(sample.teacher.hidden_states(ids_1L)[0, :-1])
        log_t_TV = teacher_TV.log_softmax(1)
        kl_TV = functional.kl_div(log_s_TV, log_t_TV, reduction="none", log_target=True)
        exact.append(kl_TV.sum(1))
    for loss in losses:
        value = loss(student, places)
        torch.testing.assert_close(value, torch.cat(exact).mean(), atol=1e-5, rtol=1e-5)
    recipe = Recipe(hidden_size=32, num_layers=1)
    assert gradient_difference(losses[1], losses[0], sample, recipe) < 1e-5
    # Hidden states of one position further.
    shifted = replace(sample, hidden_ND=sample.hidden_ND.roll(1, dims=0))
    windows, head = shifted.capture_hidden_states()
    wrong = stored_loss(windows, "full", teacher_head=head)
    assert gradient_difference(wrong, losses[0], sample, recipe) > 0.1


def test_the_measures_are_those_of_their_definitions(tmp_path: Path) -> None:
    sample = make_sample(tmp_path)
    torch.manual_seed(0)
    student = make_student(V, 32, 1)
    found_WM = evaluate(student, sample, log_probabilities(sample))
    tops, rights = [], []
    with torch.no_grad():
        for row, window in enumerate(sample.windows):
            ids_1L = torch.from_numpy(window.input_ids_L).long()[None]
            s_TV = student(ids_1L).logits[0, :-1].double().softmax(1)
            t_TV = (
                sample.teacher.logits(sample.teacher.hidden_states(ids_1L)[0, :-1])
                .double()
                .softmax(1)
            )
            labels_T = ids_1L[0, 1:]
            ce = -s_TV.gather(1, labels_T[:, None]).log().mean().item()
            kl = (t_TV * (t_TV / s_TV).log()).sum(1).mean().item()
            accepted = torch.minimum(t_TV, s_TV).sum(1).mean().item()
            assert found_WM[row, [0, 1, 3]] == pytest.approx([ce, kl, accepted], abs=1e-4)
            tops += s_TV.max(1).values.tolist()
            rights += (s_TV.argmax(1) == labels_T).double().tolist()
    confidence, right = np.array(tops), np.array(rights)
    error = 0.0
    for start in np.arange(15) / 15:
        inside = (confidence >= start) & (confidence < start + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert found_WM[0, 2] == pytest.approx(error, abs=1e-4)


@pytest.mark.slow
def test_the_gap_runs_from_the_first_arm_to_the_second(tmp_path: Path) -> None:
    sample = make_sample(tmp_path, num_documents=12)
    windows = sample.capture({"": TopK(k=32)})[""]
    arms = [
        Arm(
            name="labels",
            group="",
            bytes_per_token=None,
            loss=stored_loss(windows, "bucket", ce_weight=1),
        ),
        Arm(name="full", group="", bytes_per_token=None, loss=online_loss(sample)),
        Arm(name="top 32", group="", bytes_per_token=9.0, loss=stored_loss(windows, "bucket")),
    ]
    recipe = Recipe(steps=60, hidden_size=32, num_layers=1)
    measured = compare_students(arms, sample, sample, recipe, num_seeds=2)
    labels, full, top = judge(arms, measured)
    assert (labels.gap_closed, full.gap_closed) == (0, 1)
    assert (labels.low, labels.high, full.low, full.high) == (0, 0, 1, 1)
    assert labels.measures["KL to the teacher"] > full.measures["KL to the teacher"] + 0.1
    assert 0.5 < top.low < top.gap_closed < top.high < 1.2


def test_a_student_depends_on_its_seed_alone(tmp_path: Path) -> None:
    sample = make_sample(tmp_path)
    loss = stored_loss(sample.capture({"": TopK(k=4)})[""], "bucket")
    recipe = Recipe(steps=3, hidden_size=32, num_layers=1, warmup_steps=1)
    students = [train_student(sample, loss, recipe, seed) for seed in (0, 0, 1)]
    weights = [torch.cat([one.flatten() for one in own.parameters()]) for own in students]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


KINDS = ("cached", "fresh")


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
def test_fresh_draws_differ_between_epochs_and_cached_ones_do_not(
    tmp_path: Path, number: int
) -> None:
    sample = make_sample(tmp_path)
    found = frozen_noise_arms(sample, num_draws=4, num_epochs=3)
    designs = ("draws", "independent draws", "threshold draws")
    assert [arm.name for arm in found] == [f"{kind} {one}" for one in designs for kind in KINDS]
    cached, fresh = found[2 * number : 2 * number + 2]
    torch.manual_seed(0)
    student = make_student(V, 32, 1)
    assert callable(cached.loss)
    assert not callable(fresh.loss)
    values = [loss(student, [0, 1]).item() for loss in fresh.loss]
    assert len(set(values)) == 3
    assert cached.loss(student, [0, 1]).item() == values[0]
