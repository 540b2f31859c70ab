"""Losses on threshold draws, against whole distributions in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from softtargets.errors import TemperatureError
from softtargets.stream import Batch, collate, repack
from softtargets.targets import DrawsSchema, TargetSchema, pack
from softtargets.train import ReverseKL, distillation_loss
from softtargets.train.entropy import estimated_entropy, whole_logsumexp
from softtargets.window import Window
from tests.threshold import threshold_in_numpy
from tests.windows import KINDS, make_tokens, make_window

GRID = (1.0, 2.0)
KIND = "threshold-lossless"
IN_STEPS = "threshold-of-two-temperatures"


def captured(
    rng: np.random.Generator, num_tokens: int, uniform: float | None = None
) -> tuple[Window, np.ndarray]:
    """Return a window of a store without rounding, and the logits it was made of."""
    schema = KINDS[KIND]
    assert schema.head is not None
    assert schema.samples is not None
    tokens = make_tokens(rng, schema, num_tokens, 1.0)
    logits_TV = (2 * rng.standard_normal((num_tokens - 1, 300))).astype(np.float32)
    uniform_T = rng.random(num_tokens - 1)
    if uniform is not None:
        uniform_T[:] = uniform
    labels_T = tokens.input_ids_L[1:]
    targets = threshold_in_numpy(
        logits_TV, labels_T, uniform_T, schema.head, schema.samples, schema.temperatures
    )
    return Window.of(tokens, pack(targets, schema)), logits_TV


def dense_estimate(window: Window, logits_TV: np.ndarray, temperature: float) -> np.ndarray:
    """Return t_hat [T, V] by its definition: p of entries, p^(U) / (N p^(T)) of what was drawn."""
    draws = window.packed.schema.samples
    assert isinstance(draws, DrawsSchema)
    t_TV, drawn_at_TV = (
        np.exp(logits_TV.astype(np.float64) / one)
        / np.exp(logits_TV.astype(np.float64) / one).sum(axis=1, keepdims=True)
        for one in (temperature, draws.temperature)
    )
    targets = window.targets
    assert targets.samples is not None
    estimate_TV: np.ndarray = np.zeros(t_TV.shape)
    at_S = np.repeat(np.arange(len(targets)), targets.samples.num_samples_T)
    ids_S = targets.samples.ids_S
    estimate_TV[at_S, ids_S] = t_TV[at_S, ids_S] / drawn_at_TV[at_S, ids_S] / draws.num_draws
    for own_V, t_V, ids_K, num in zip(
        estimate_TV, t_TV, targets.ids_TK, targets.num_entries_T, strict=True
    ):
        own_V[ids_K[:num]] = t_V[ids_K[:num]]
    return estimate_TV


def student(batch: Batch, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn((*batch["input_ids"].shape, 300), generator=generator)


@pytest.mark.parametrize("temperature", GRID)
def test_the_sampled_loss_and_its_gradient_are_those_of_the_estimate(
    rng: np.random.Generator, temperature: float
) -> None:
    made = [captured(rng, length) for length in (12, 30, 2)]
    batch = collate([window for window, _ in made])
    logits = student(batch).requires_grad_()
    places_N = batch["target_mask"].flatten().nonzero()[:, 0]
    entropy_N = estimated_entropy(batch, batch.soft_targets(temperature), places_N, temperature)
    found = distillation_loss(logits, batch, temperature) / temperature**2 + entropy_N.mean()
    wide = logits.detach().double().requires_grad_()
    losses = []
    for row, (window, logits_TV) in enumerate(made):
        estimate_TV = torch.from_numpy(dense_estimate(window, logits_TV, temperature))
        log_s_TV = (wide[row, : len(estimate_TV)] / temperature).log_softmax(dim=1)
        losses.append(-(estimate_TV * log_s_TV).sum(dim=1))
    expected = torch.cat(losses).mean()
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    own, reference = torch.autograd.grad(found, logits)[0], torch.autograd.grad(expected, wide)[0]
    torch.testing.assert_close(own.double(), reference, atol=1e-7, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", GRID)
def test_estimates_are_unbiased_at_every_temperature_of_the_grid(temperature: float) -> None:
    """Over all uniforms, what ids weigh is their probability: here over 1,000 that stand evenly."""
    num, sums = 1000, torch.zeros(4, 300, dtype=torch.float64)
    for number in range(num):
        window, logits_TV = captured(np.random.default_rng(1), 5, (number + 0.5) / num)
        targets = collate([window]).soft_targets(temperature)
        assert targets.sample_ids is not None
        assert targets.sample_weights is not None
        dense = torch.zeros((1, 5, 300)).scatter_add_(2, targets.ids, targets.logprobs.exp())
        dense = dense.scatter_add_(2, targets.sample_ids, targets.sample_weights)
        sums = sums + dense[0, :4].double() / num
    scaled_TV = torch.from_numpy(logits_TV).double() / temperature
    ratio_TV = scaled_TV.softmax(dim=1) / torch.from_numpy(logits_TV).double().softmax(dim=1)
    # An id's share of the uniforms is met within one of them, and each weighs ratio / N.
    off_TV = (sums - scaled_TV.softmax(dim=1)).abs()
    assert (off_TV <= ratio_TV / 9 / num + 1e-6).all()


@pytest.mark.parametrize("temperature", GRID)
def test_the_bucket_has_the_exact_ids_and_the_mass_of_the_others(
    rng: np.random.Generator, temperature: float
) -> None:
    window, logits_TV = captured(rng, 20)
    batch = collate([window])
    for divergence in ("forward_kl", ReverseKL()):
        found = distillation_loss(
            student(batch),
            batch,
            temperature,
            tail="bucket",
            divergence=divergence,
        )
        t_TV = (torch.from_numpy(logits_TV).double() / temperature).softmax(dim=1)
        s_TV = (student(batch)[0, :-1].double() / temperature).softmax(dim=1)
        targets, losses = window.targets, []
        for t_V, s_V, ids_K, count in zip(
            t_TV, s_TV, targets.ids_TK, targets.num_entries_T, strict=True
        ):
            kept = torch.from_numpy(ids_K[:count]).long()
            t_B, s_B = (
                torch.cat([own_V[kept], (own_V.sum() - own_V[kept].sum())[None]])
                for own_V in (t_V, s_V)
            )
            first, second = (t_B, s_B) if divergence == "forward_kl" else (s_B, t_B)
            losses.append((first * (first / second).log()).sum())
        expected = torch.stack(losses).mean() * temperature**2
        torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=2e-5)


def test_batches_in_steps_are_what_windows_say(rng: np.random.Generator) -> None:
    """The tensors of a batch make the distributions that `SoftTargets` makes in float64."""
    windows = [make_window(rng, KINDS[IN_STEPS], num_tokens=length)[0] for length in (9, 30)]
    batch = collate(windows)
    for temperature in GRID:
        found = batch.soft_targets(temperature)
        whole = whole_logsumexp(batch, found, temperature)
        for row, window in enumerate(windows):
            own, here = window.targets, slice(0, len(window) - 1)
            kept = own.logprobs_TK(temperature)
            width = found.logprobs.shape[-1]
            np.testing.assert_allclose(found.logprobs[row, here], kept[:, :width], rtol=1e-4)
            np.testing.assert_array_equal(kept[:, width:], -np.inf)
            np.testing.assert_allclose(
                found.tail_logmass[row, here], own.tail_logmass_T(temperature), rtol=1e-4
            )
            np.testing.assert_allclose(whole[row, here], own.logsumexp_T(temperature), rtol=1e-4)
            np.testing.assert_array_equal(batch["label_logit"][row, here], own.label_logit_T)


@pytest.mark.parametrize("kind", ["threshold", IN_STEPS, KIND])
def test_repacked_batches_have_the_same_loss(rng: np.random.Generator, kind: str) -> None:
    windows = [make_window(rng, KINDS[kind], num_tokens=length)[0] for length in (9, 30, 4)]
    batch = collate(windows)
    packed = repack(batch, 40)
    # A student that says the same everywhere cannot tell how rows are laid out.
    same = torch.randn(300, generator=torch.Generator().manual_seed(1))
    values = [
        distillation_loss(same.expand(*one["input_ids"].shape, 300), one) for one in (batch, packed)
    ]
    torch.testing.assert_close(*values)


def test_draws_at_another_temperature_need_their_logits(rng: np.random.Generator) -> None:
    schema: TargetSchema = replace(KINDS["threshold"], temperatures=GRID)
    batch = collate([make_window(rng, schema, num_tokens=9)[0]])
    assert distillation_loss(student(batch), batch).isfinite()
    with pytest.raises(TemperatureError, match="the logits of the drawn ids, to weigh them anew"):
        distillation_loss(student(batch), batch, 2.0)
