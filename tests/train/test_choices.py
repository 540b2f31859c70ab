from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from softtargets import collate, distillation_loss
from softtargets.errors import InputError, TemperatureError
from softtargets.train import (
    JSD,
    ForwardKL,
    OutputHead,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
    choose_tail,
    fused_distillation_loss,
)
from softtargets.train.choices import check_whole_number
from softtargets.train.divergences import as_divergence
from softtargets.train.sparse import check_tail
from tests.train.test_losses import logits_for, windows_of
from tests.windows import KINDS, make_head, make_window


def fused(logits: torch.Tensor, batch: Any, **options: Any) -> torch.Tensor:
    return fused_distillation_loss(logits, torch.eye(logits.shape[-1]), batch, **options)


NAMES = "'bucket', 'full', 'label', 'renormalize', 'sampled', 'uniform'"


@pytest.mark.slow
@pytest.mark.parametrize("loss", [distillation_loss, fused])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[
            ({"tail": one}, f"tail: expected one of {NAMES}; found {one!r}")
            for one in ("renormalise", "buckett", "none", "", 3)
        ],
        ({"divergence": "kl"}, "divergence: expected one of 'forward_kl', 'reverse_kl', 'jsd'"),
        ({"divergence": JSD}, "or an object such as JSD.*found <class"),
        ({"divergence": None}, "divergence: expected one of .*; found None"),
        ({"ce_weight": math.nan}, "ce_weight: expected a number from 0 to 1; found nan"),
        ({"ce_weight": "0.5"}, "ce_weight: expected a number from 0 to 1; found '0.5'"),
        ({"ce_weight": -0.1}, "ce_weight: expected a number from 0 to 1; found -0.1"),
        ({"confidence_power": math.nan}, "confidence_power: expected a finite number; found nan"),
        ({"confidence_power": math.inf}, "confidence_power: expected a finite number; found inf"),
        *[
            ({"num_targets": one}, "num_targets: expected a positive number")
            for one in (0, -3, math.nan, math.inf, torch.tensor(0), torch.ones(2), True)
        ],
    ],
)
def test_what_would_give_another_loss_is_refused(
    rng: np.random.Generator, loss: Any, options: dict[str, Any], message: str
) -> None:
    batch = collate(windows_of(rng, 5))
    with pytest.raises(InputError, match=message):
        loss(logits_for(batch), batch, **options)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [distillation_loss, fused])
@pytest.mark.parametrize("kind", ["topk", "topk-without-tail"])
@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, math.nan, math.inf, "1.0", True])
def test_what_is_no_temperature_is_refused(
    rng: np.random.Generator, loss: Any, kind: str, temperature: Any
) -> None:
    """Of a store without a grid any temperature is taken, so zero would give NaN."""
    batch = collate([make_window(rng, KINDS[kind])[0]])
    with pytest.raises(TemperatureError, match="temperature: expected a positive number"):
        loss(logits_for(batch), batch, temperature=temperature, tail="renormalize")


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_a_chunk_of_no_rows_is_refused(rng: np.random.Generator, size: Any) -> None:
    """A negative size went through no chunk at all, and gave a loss of 0."""
    batch = collate(windows_of(rng, 5))
    with pytest.raises(InputError, match="chunk_size: expected a whole number from 1 on"):
        fused(logits_for(batch), batch, chunk_size=size)
    check_whole_number("chunk_size", 1, least=1, next_step="")


def test_without_targets_any_number_of_them_gives_zero(rng: np.random.Generator) -> None:
    windows = windows_of(rng, 4)
    windows[0].mask_T[:] = False
    batch = collate(windows)
    for number in (None, 0, torch.tensor(0), 5):
        for ce_weight in (0.0, 0.5):
            loss = distillation_loss(
                logits_for(batch), batch, ce_weight=ce_weight, num_targets=number
            )
            assert loss.item() == 0


@pytest.mark.parametrize("loss", [distillation_loss, fused])
@pytest.mark.parametrize(
    ("name", "divergence"),
    [
        ("forward_kl", ForwardKL()),
        ("reverse_kl", ReverseKL()),
        ("jsd", JSD(0.5)),
        ("skew_kl", SkewKL(0.1)),
        ("skew_reverse_kl", SkewReverseKL(0.1)),
    ],
)
def test_divergences_have_names(
    rng: np.random.Generator, loss: Any, name: str, divergence: Any
) -> None:
    batch = collate(windows_of(rng, 5, 9))
    logits = logits_for(batch)
    named = loss(logits, batch, divergence=name)
    assert torch.equal(named, loss(logits, batch, divergence=divergence))
    assert as_divergence(divergence) is divergence


def test_the_tail_that_applies_is_told(rng: np.random.Generator) -> None:
    batches = {kind: collate([make_window(rng, KINDS[kind])[0]]) for kind in ("topk", "hybrid")}
    assert choose_tail(batches["topk"]) == "bucket"
    assert choose_tail(batches["hybrid"]) == "sampled"
    assert choose_tail(batches["hybrid"], divergence="reverse_kl") == "bucket"
    with pytest.raises(InputError, match=f"expected one of {NAMES}"):
        choose_tail(batches["topk"], "buckett")  # type: ignore[arg-type]
    check_tail(None)


@pytest.mark.parametrize("dtype", [torch.int8, "bfloat16"])
def test_an_output_head_takes_numbers_with_fractions_only(dtype: Any) -> None:
    with pytest.raises(InputError, match="OutputHead, dtype: expected a floating-point dtype"):
        OutputHead.of_weights(make_head(), "0" * 64, dtype=dtype)
