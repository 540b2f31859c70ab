"""How far draws are off, in the standard errors that their design gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from softtargets.capture import Draws, Hybrid, Sampled, Threshold
from softtargets.capture.comparison import Comparison
from softtargets.capture.draw_deviation import DrawDeviation
from softtargets.capture.keep.selection import Design, Selection
from softtargets.capture.keep.selector import select
from softtargets.capture.keep.stored_form import schema_parts
from softtargets.targets import TargetSchema, pack

VOCAB_SIZE, NUM_DRAWS = 150, 12
SELECTIONS: dict[str, Selection] = {
    "independent": Sampled(draws=Draws(num=NUM_DRAWS, design="independent")),
    "systematic": Sampled(draws=Draws(num=NUM_DRAWS)),
    "systematic beside a head": Hybrid(k=4, draws=Draws(num=NUM_DRAWS)),
    "threshold": Threshold(draws=Draws(num=NUM_DRAWS)),
}


def deviation(
    selection: Selection,
    num_positions: int,
    *,
    seed: int,
    sharper: float = 1.0,
    design: Design | None = None,
    start: float | None = None,
) -> float:
    """Return by how many standard errors draws are off a live teacher.

    Args:
        selection: with draws.
        num_positions: how many positions it is of.
        seed: of what decides the draws.
        sharper: the logits that are drawn from are so many times the teacher's.
        design: whose standard errors are meant, if not those of the selection's own.
        start: what decides the draws, if it is the same at every position.
    """
    assert selection.draws is not None
    shape = num_positions, VOCAB_SIZE
    logits_TV = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    num = NUM_DRAWS if selection.draws.design == "independent" else 1
    generator = torch.Generator().manual_seed(seed)
    uniforms_ND = torch.rand((num_positions, num), generator=generator, dtype=torch.float64)
    if start is not None:
        uniforms_ND.fill_(start)
    selected = select(
        logits_TV * sharper,
        torch.zeros(num_positions, dtype=torch.int64),
        selection,
        (1.0,),
        uniforms_ND=uniforms_ND,
        label_logits=False,
    )
    schema = TargetSchema(
        vocab_size=VOCAB_SIZE,
        tokenizer_vocab_size=VOCAB_SIZE,
        temperatures=(1.0,),
        **schema_parts(selection, "float32", (1.0,), VOCAB_SIZE),
    )
    targets = pack(selected.numpy(schema), schema).unpack()
    if design is not None:
        assert schema.samples is not None
        schema = replace(schema, samples=replace(schema.samples, design=design))
    comparison = Comparison(schema, 1.0)
    comparison.add(targets, logits_TV.double(), logits_TV.double())
    found = comparison.fidelity().draws_deviation
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SELECTIONS)
def test_standard_errors_are_those_of_the_design(name: str) -> None:
    """Squares of deviations in standard errors have a mean of 1; of 150, within 0.12."""
    squares = [deviation(SELECTIONS[name], 8, seed=seed) ** 2 for seed in range(150)]
    assert np.mean(squares) == pytest.approx(1, abs=0.45)


@pytest.mark.slow
def test_systematic_draws_have_less_than_the_errors_of_independent_ones() -> None:
    """The negative control of the test above."""
    selection = SELECTIONS["systematic"]
    squares = [deviation(selection, 8, seed=seed, design="independent") ** 2 for seed in range(150)]
    assert np.mean(squares) < 0.55


def test_a_bias_that_the_errors_of_independent_draws_would_hide_is_found() -> None:
    off, hidden = (
        [
            deviation(SELECTIONS["systematic"], 40, seed=seed, sharper=1.14, design=design)
            for seed in range(5)
        ]
        for design in ("systematic", "independent")
    )
    assert min(off) > 5 > max(hidden)


@pytest.mark.slow
def test_a_number_of_draws_that_is_always_rounded_down_is_found() -> None:
    """The ids are as likely as they should be, and yet the estimates are too small in the mean."""
    selection = SELECTIONS["threshold"]
    honest = [deviation(selection, 200, seed=seed) for seed in range(3)]
    assert max(map(abs, honest)) < 5
    assert deviation(selection, 200, seed=0, start=0.0) < -5


def test_one_rare_draw_is_no_bias() -> None:
    rare = DrawDeviation(extra=1 - 1e-3, extra_variance=1e-3)
    assert abs(rare.in_errors(1e-4)) < 2
