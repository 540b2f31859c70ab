from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from softtargets.errors import InputError
from softtargets.kinds import HeadSchema, SampleSchema
from softtargets.packing.truncate import keep_highest, truncated_schema
from tests.windows import make_window, topk_schema


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
    head = windows[-1].packed.head
    assert head is not None
    assert (len(head.escapes_E) > 0) == (values == "steps")


def test_what_cannot_be_truncated_is_refused() -> None:
    schema = topk_schema(k=8)
    assert truncated_schema(schema, 8) == schema
    for k in (0, 9):
        with pytest.raises(InputError, match=f"top_k: expected a number .* found {k}, of top 8"):
            truncated_schema(schema, k)
    samples = SampleSchema(num_draws=4, origin="tail", temperature=1.0, values="none")
    with pytest.raises(InputError, match="Draws estimate the tail of the head"):
        truncated_schema(replace(schema, samples=samples), 4)
