"""The soft targets that a batch gives are those of its windows, at their positions."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch

from softtargets import Store, collate
from softtargets.errors import TemperatureError
from softtargets.kinds import SampleSchema
from softtargets.targets import SoftTargets, pack
from tests.windows import KINDS, make_window, topk_schema


@pytest.mark.slow
@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("scale", [3.0, 400.0])
@pytest.mark.parametrize(("vocab_size", "k"), [(300, 8), (262_144, 5), (20, 20)])
def test_targets_on_a_device_are_those_of_the_windows(
    rng: np.random.Generator, lossless: bool, scale: float, vocab_size: int, k: int
) -> None:
    schema = topk_schema(k, vocab_size=vocab_size, lossless=lossless)
    windows = [make_window(rng, schema, num_tokens=length, scale=scale)[0] for length in (3, 7, 2)]
    batch = collate(windows)
    for temperature in (1.0, 2.0):
        found = batch.soft_targets(temperature)
        assert found.ids.shape == found.logprobs.shape == (3, 7, k)
        assert (found.ids.dtype, found.logprobs.dtype) == (torch.int64, torch.float32)
        for row, window in enumerate(windows):
            count = len(window.packed)
            expected = window.targets
            assert np.array_equal(found.ids[row, :count], expected.ids_TK)
            np.testing.assert_allclose(
                found.logprobs[row, :count], expected.logprobs_TK(temperature), atol=2e-4
            )
            np.testing.assert_allclose(
                found.tail_logmass[row, :count], expected.tail_logmass_T(temperature), atol=1e-6
            )
        total = found.logprobs.exp().sum(dim=2) + found.tail_logmass.exp()
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-4, rtol=0)


@pytest.mark.parametrize("lossless", [False, True])
def test_fewer_entries_than_there_is_room_for_still_sum_to_one(
    rng: np.random.Generator, lossless: bool
) -> None:
    window, _ = make_window(rng, topk_schema(lossless=lossless), num_tokens=40, ruled_out=0.5)
    assert (window.targets.num_entries_T == 3).sum() > 5
    for temperature in (1.0, 2.0):
        found = collate([window]).soft_targets(temperature)
        total = found.logprobs.exp().sum(dim=2) + found.tail_logmass.exp()
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("origin", ["all", "tail"])
@pytest.mark.parametrize(("scale", "drawn_at"), [(3.0, 1.0), (3.0, 2.0), (70.0, 1.0)])
def test_sampled_ids_have_the_weights_of_their_definition(
    rng: np.random.Generator,
    origin: Literal["all", "tail"],
    lossless: bool,
    scale: float,
    drawn_at: float,
) -> None:
    """t_hat_i = (c_i / N) t_i(T) / q_i, q what was drawn from: all in float64 here."""
    schema = dataclasses.replace(
        topk_schema(lossless=lossless),
        head=topk_schema(lossless=lossless).head if origin == "tail" else None,
        samples=SampleSchema(
            num_draws=9,
            origin=origin,
            temperature=drawn_at,
            values="float32" if lossless else "steps",
        ),
    )
    windows = [make_window(rng, schema, num_tokens=length, scale=scale)[0] for length in (9, 5)]
    batch = collate(windows)
    for temperature in (1.0, 2.0):
        found = batch.soft_targets(temperature)
        assert found.sample_ids is not None
        assert found.sample_weights is not None
        for row, window in enumerate(windows):
            own = window.targets
            assert own.samples is not None
            assert own.samples.logits_S is not None
            at_S = np.repeat(np.arange(len(own)), own.samples.num_samples_T)
            logits_S = own.samples.logits_S.astype(np.float64)
            at_draws = (1.0, 2.0).index(drawn_at)
            drawn_mass_T = own.tail_mass_TG[:, at_draws] if origin == "tail" else np.ones(len(own))
            q_S = np.exp(logits_S / drawn_at - own.logsumexp_T(drawn_at)[at_S]) / drawn_mass_T[at_S]
            t_S = np.exp(logits_S / temperature - own.logsumexp_T(temperature)[at_S])
            expected_S = own.samples.counts_S / 9 * t_S / q_S
            start = 0
            for t, count in enumerate(own.samples.num_samples_T):
                stop = start + count
                assert found.sample_ids[row, t, :count].tolist() == (
                    own.samples.ids_S[start:stop].tolist()
                )
                weights = found.sample_weights[row, t]
                np.testing.assert_allclose(weights[:count], expected_S[start:stop], rtol=1e-3)
                assert (weights[count:] == 0).all()
                start = stop
    assert found.sample_weights is not None
    assert (found.sample_weights[1, 4:] == 0).all()
    if origin == "all":
        assert found.ids.shape[2] == found.logprobs.shape[2] == 0
        assert (found.tail_logmass == 0).all()


def test_at_the_temperature_of_the_draws_no_logits_are_needed(rng: np.random.Generator) -> None:
    batch = collate([make_window(rng, KINDS["sampled"])[0]])
    weights = batch.soft_targets(1.0).sample_weights
    assert weights is not None
    torch.testing.assert_close(weights[0, :5].sum(dim=1), torch.ones(5))
    with pytest.raises(TemperatureError, match="the logits of the drawn ids, to weigh them anew"):
        batch.soft_targets(2.0)


def test_entries_that_are_not_kept_have_no_mass(rng: np.random.Generator) -> None:
    window, _ = make_window(rng)
    window.packed.cells["num_entries"][2] = 3
    logprobs = collate([window]).soft_targets().logprobs[0, 2]
    assert torch.isfinite(logprobs[:3]).all()
    assert (logprobs[3:] == -torch.inf).all()


def test_a_temperature_outside_the_grid_is_refused(store: Store) -> None:
    with pytest.raises(TemperatureError, match=r"temperature 3: expected one of .* stored: 1, 2"):
        collate(list(store)[:2]).soft_targets(3.0)


@pytest.mark.parametrize("lossless", [False, True])
def test_listed_targets_stand_at_their_positions(rng: np.random.Generator, lossless: bool) -> None:
    """A batch of some positions is that of all positions where those are, and empty elsewhere."""
    every = [
        make_window(rng, topk_schema(lossless=lossless), num_tokens=length, scale=100.0)[0]
        for length in (9, 14, 5)
    ]
    schema = dataclasses.replace(topk_schema(lossless=lossless), positions="listed")
    listed = []
    for window in every:
        positions_T = np.flatnonzero(rng.random(len(window.mask_T)) < 0.5).astype(np.int32)
        own = window.targets
        arrays = {
            name: getattr(own, name)[positions_T]
            for name in (
                "ids_TK",
                "logits_TK",
                "num_entries_T",
                "tail_mass_TG",
                "label_logit_T",
                "label_rank_T",
            )
        }
        some = SoftTargets(temperatures=own.temperatures, **arrays)
        listed.append(
            dataclasses.replace(
                window,
                positions_T=positions_T,
                mask_T=window.mask_T[positions_T],
                packed=pack(some, schema),
            )
        )
        window.mask_T[np.setdiff1d(np.arange(len(window.mask_T)), positions_T)] = False
    whole, found = collate(every), collate(listed)
    assert torch.equal(found["labels"], whole["labels"])
    expected, targets = whole.soft_targets(2.0), found.soft_targets(2.0)
    assert torch.equal(targets.mask, expected.mask)
    at = targets.mask
    assert at.any()
    assert torch.equal(targets.ids[at], expected.ids[at])
    torch.testing.assert_close(targets.logprobs[at], expected.logprobs[at])
    torch.testing.assert_close(targets.tail_logmass[at], expected.tail_logmass[at])
    assert (targets.tail_logmass[~at] == 0).all()
