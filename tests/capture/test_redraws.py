"""Draws weighed anew at another temperature: their expectation is within the stated bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from softtargets.capture import Draws, Hybrid, Sampled, Threshold, TopK
from softtargets.capture.keep.sampling import uniforms
from softtargets.capture.keep.selection import Selection
from softtargets.capture.keep.selector import select
from softtargets.capture.keep.stored_form import SAMPLE_STEP, schema_parts
from softtargets.kinds import DEFAULT_STEP, TargetSchema
from softtargets.report.facts import drawn_at
from softtargets.targets import pack

GRID = (0.5, 1.0, 2.0)
VOCAB_SIZE = 40
REDRAWS = 4000
DRAWS = 50
NUM_ERRORS = 5


def schema_of(selection: Selection, values: str) -> TargetSchema:
    return TargetSchema(
        vocab_size=VOCAB_SIZE,
        tokenizer_vocab_size=VOCAB_SIZE,
        temperatures=GRID,
        **schema_parts(selection, values, GRID, VOCAB_SIZE),  # type: ignore[arg-type]
    )


def mean_weights(
    logits_V: torch.Tensor, selection: Selection, schema: TargetSchema, temperature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return every id's mean weight over redraws, its standard error, and which can be drawn."""
    assert selection.draws is not None
    logits_NV = logits_V.repeat(REDRAWS, 1)
    seed, is_independent = selection.draws.seed, selection.draws.design == "independent"
    found = uniforms("ab" * 16, 0, REDRAWS, DRAWS if is_independent else 1, seed)
    uniforms_ND = torch.from_numpy(found)
    labels_N = torch.zeros(REDRAWS, dtype=torch.int64)
    selected = select(
        logits_NV, labels_N, selection, GRID, uniforms_ND=uniforms_ND, label_logits=False
    )
    targets = pack(selected.numpy(schema), schema).unpack()
    drawn = drawn_at(targets, schema, temperature)
    assert drawn is not None
    assert targets.samples is not None
    weights_NV = np.zeros((REDRAWS, VOCAB_SIZE))
    weights_NV[drawn.position_S, targets.samples.ids_S] = drawn.weight_S
    is_tail_V = logits_V.isfinite().numpy()
    is_tail_V[targets.ids_TK[0, : targets.num_entries_T[0]]] = False
    return weights_NV.mean(axis=0), weights_NV.std(axis=0) / REDRAWS**0.5, is_tail_V


def bound_of(schema: TargetSchema, temperature: float) -> float:
    """Return what FORMAT.md says, in nats."""
    assert schema.samples is not None
    bound = abs(1 / temperature - 1) * (schema.samples.step or 0) / 2
    if schema.head is not None:
        bound += (1 / temperature + 1) * (schema.head.step or 0) / 2
    if schema.grid_step is not None and temperature != 1:
        # Half a step of each of the two tail masses.
        bound += schema.grid_step
    return bound


def excess(
    logits_V: torch.Tensor, selection: Selection, schema: TargetSchema, temperature: float, e: float
) -> float:
    """Return by how many standard errors a mean weight is further from the truth than e nats."""
    mean_V, error_V, is_tail_V = mean_weights(logits_V, selection, schema, temperature)
    true_V = (logits_V.double() / temperature).softmax(dim=0).numpy()
    off_V = np.abs(mean_V - true_V) - true_V * np.expm1(e)
    return float((off_V[is_tail_V] / error_V[is_tail_V]).max())


@pytest.mark.slow
@pytest.mark.parametrize("values", ["steps", "float32"])
@pytest.mark.parametrize("temperature", GRID)
@pytest.mark.parametrize(
    "selection",
    [
        Sampled(draws=Draws(num=DRAWS)),
        Hybrid(k=6, draws=Draws(num=DRAWS)),
        Sampled(draws=Draws(num=DRAWS, design="independent")),
        Hybrid(k=6, draws=Draws(num=DRAWS, design="independent")),
        Threshold(draws=Draws(num=DRAWS)),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_mean_over_redraws_is_within_the_bound(
    seed: int, selection: Selection, temperature: float, values: str
) -> None:
    logits_V = torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(seed))
    schema = schema_of(selection, values)
    e = bound_of(schema, temperature)
    if values == "float32":
        assert e == 0
    assert excess(logits_V, selection, schema, temperature, e) < NUM_ERRORS


@pytest.mark.slow
def test_coarser_steps_would_be_noticed() -> None:
    """The second id's logit lies 1/32 nat off a step of 1/16: what was wrong once."""
    selection = Sampled(draws=Draws(num=DRAWS))
    logits_V = torch.full((VOCAB_SIZE,), -torch.inf)
    logits_V[:2] = torch.tensor([1.0, 1.0 - 1 / 32 - 1e-3])
    schema = schema_of(selection, "steps")
    assert schema.samples is not None
    assert schema.samples.step == SAMPLE_STEP
    e = bound_of(schema, 0.5)
    assert e == 1 / 128
    assert excess(logits_V, selection, schema, 0.5, e) < NUM_ERRORS
    coarse = replace(schema, samples=replace(schema.samples, step=DEFAULT_STEP))
    assert excess(logits_V, selection, coarse, 0.5, e) > NUM_ERRORS
    assert excess(logits_V, selection, coarse, 0.5, bound_of(coarse, 0.5)) < NUM_ERRORS


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("scale", [0.01, 0.3, 2.0])
def test_the_heads_part_is_within_its_bound(scale: float, temperature: float) -> None:
    """What its rounding does to the ratio of sums over the vocabulary, which all weights share."""
    generator = torch.Generator().manual_seed(0)
    logits_NV = scale * torch.randn((500, VOCAB_SIZE), generator=generator)
    selection = TopK(k=16)
    schema = schema_of(selection, "steps")
    labels_N = torch.zeros(500, dtype=torch.int64)
    selected = select(logits_NV.clone(), labels_N, selection, GRID, label_logits=False)
    targets = pack(selected.numpy(schema), schema).unpack()
    true_N, found_N = (
        sums(temperature) - sums(1.0)
        for sums in (
            lambda one: (logits_NV.double() / one).logsumexp(dim=1).numpy(),
            lambda one: targets.logsumexp_T(one).astype(np.float64),
        )
    )
    # And float32's own rounding of what is stored.
    assert np.abs(found_N - true_N).max() <= (1 / temperature + 1) / 32 + 1e-5
    assert np.abs(found_N - true_N).max() > 1e-4
