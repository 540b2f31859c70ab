from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from softtargets.errors import InputError, TemperatureError
from softtargets.kinds import HeadSchema, SampleSchema
from softtargets.targets.truncate import chosen_grid, keep_highest, narrow, truncated_schema
from tests.windows import KINDS, make_window, topk_schema


@pytest.mark.parametrize("values", ["steps", "float32"])
@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_what_is_dropped_joins_the_tail_and_nothing_else_changes(
    values: Literal["steps", "float32"], k: int
) -> None:
    schema = topk_schema(k=8, temperatures=(0.5, 1.0, 2.0))
    schema = replace(schema, head=HeadSchema(max_entries=8, values=values))
    rng = np.random.default_rng(k)
    # Spread far enough for escapes, and with positions of fewer than 8 entries.
    windows = [make_window(rng, schema, scale=scale, ruled_out=0.3)[0] for scale in (0.5, 3, 40)]
    for window in windows:
        whole = window.targets
        kept = keep_highest(window.packed, truncated_schema(schema, k)).unpack()
        assert np.array_equal(kept.ids_TK, whole.ids_TK[:, :k])
        assert np.array_equal(kept.logits_TK, whole.logits_TK[:, :k])
        assert np.array_equal(kept.num_entries_T, np.minimum(whole.num_entries_T, k))
        assert kept.label_rank_T is whole.label_rank_T
        for temperature in schema.temperatures:
            logprobs_TK = kept.logprobs_TK(temperature)
            np.testing.assert_allclose(
                logprobs_TK, whole.logprobs_TK(temperature)[:, :k], atol=2e-5
            )
            total_T = np.exp(logprobs_TK).sum(1) + np.exp(kept.tail_logmass_T(temperature))
            np.testing.assert_allclose(total_T, 1, atol=1e-5)
    escapes_E = windows[-1].packed.cells.get("escapes", ())
    assert (len(escapes_E) > 0) == (values == "steps")


def test_what_cannot_be_truncated_is_refused() -> None:
    schema = topk_schema(k=8)
    assert truncated_schema(schema, 8) == schema
    for k in (0, 9):
        with pytest.raises(InputError, match=f"top_k: expected a number .* found {k}, of top 8"):
            truncated_schema(schema, k)
    samples = SampleSchema(num_draws=4, origin="tail", temperature=1.0, values="none")
    with pytest.raises(InputError, match="Draws estimate the tail of the head"):
        truncated_schema(replace(schema, samples=samples), 4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind, schema in KINDS.items() if schema.temperatures])
def test_chosen_temperatures_are_as_stored_and_the_others_are_gone(kind: str) -> None:
    schema = KINDS[kind]
    drawn_at = () if schema.samples is None else (schema.samples.temperature,)
    rng = np.random.default_rng(0)
    window = make_window(rng, schema, num_tokens=9)[0]
    whole = window.targets
    for temperature in schema.temperatures:
        chosen = {temperature, *drawn_at}
        own = chosen_grid(schema, list(chosen))
        assert own.temperatures == tuple(one for one in schema.temperatures if one in chosen)
        kept = narrow(window.packed, own).unpack()
        assert kept.temperatures == own.temperatures
        assert np.array_equal(kept.logprobs_TK(temperature), whole.logprobs_TK(temperature))
        assert np.array_equal(kept.tail_logmass_T(temperature), whole.tail_logmass_T(temperature))
        if whole.logsumexp_TG is not None:
            at = [schema.temperatures.index(one) for one in own.temperatures]
            assert kept.logsumexp_TG is not None
            assert np.array_equal(kept.logsumexp_TG, whole.logsumexp_TG[:, at])
        if whole.samples is not None:
            assert kept.samples is not None
            assert np.array_equal(kept.samples.counts_S, whole.samples.counts_S)
        for other in set(schema.temperatures) - chosen:
            with pytest.raises(TemperatureError, match="one of the temperatures stored"):
                kept.logprobs_TK(other)


def test_fewer_entries_at_one_temperature_are_those_at_all(rng: np.random.Generator) -> None:
    schema = topk_schema(k=8, temperatures=(0.5, 1.0, 2.0))
    window = make_window(rng, schema, num_tokens=9)[0]
    fewer = narrow(window.packed, truncated_schema(schema, 3)).unpack()
    both = narrow(window.packed, chosen_grid(truncated_schema(schema, 3), [2.0])).unpack()
    assert both.tail_mass_TG.shape == (8, 1)
    assert np.array_equal(both.tail_mass_TG[:, 0], fewer.tail_mass_TG[:, 2])
    assert np.array_equal(both.logprobs_TK(2.0), fewer.logprobs_TK(2.0))


def test_a_grid_that_cannot_be_had_is_refused() -> None:
    schema = topk_schema(k=8)
    with pytest.raises(TemperatureError, match=r"temperatures stored: 1, 2; found"):
        chosen_grid(schema, [1.0, 3.0])
    with pytest.raises(InputError, match=r"some of those stored \(1, 2\); found none"):
        chosen_grid(schema, [])
    with pytest.raises(InputError, match=r"1 among them, at which ids were drawn; found 2\. Add 1"):
        chosen_grid(KINDS["hybrid"], [2.0])
