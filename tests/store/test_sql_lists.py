"""Threshold draws decoded by DuckDB in SQL alone: lists need no unpacking of bytes."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest

from softtargets.store import Store
from tests.golden import GOLDEN

POSITIONS = """
    SELECT *,
        sum(n) OVER (PARTITION BY window_id ORDER BY t) - n AS first,
        sum(d) OVER (PARTITION BY window_id ORDER BY t) - d AS first_drawn
    FROM (
        SELECT window_id, entry_ids, entry_steps, drawn_ids,
            generate_subscripts(num_entries, 1) AS t, unnest(num_entries) AS n,
            unnest(num_drawn) AS d, unnest(tail_odds_t1) AS odds
        FROM '{files}')"""
ENTRIES = f"""
    WITH positions AS ({POSITIONS}), entries AS (
        SELECT window_id, t, odds, rank, entry_ids[(first + rank + 1)::BIGINT] AS id,
            -{{step}} * coalesce(list_sum(
                entry_steps[(first - t + 2)::BIGINT : (first - t + 1 + rank)::BIGINT]), 0) AS z
        FROM positions, unnest(range(n)) AS ranks(rank))
    SELECT window_id, t - 1, rank, id,
        z - ln(sum(exp(z)) OVER (PARTITION BY window_id, t))
            - CASE WHEN odds = -2147483648 THEN 0 ELSE ln(1 + exp(odds * {{grid_step}})) END
    FROM entries ORDER BY window_id, t, rank"""
DRAWN = f"""
    WITH positions AS ({POSITIONS})
    SELECT window_id, t - 1, place, place - 1 + list_sum(
        drawn_ids[(first_drawn + 1)::BIGINT : (first_drawn + place)::BIGINT])
    FROM positions, unnest(range(1, d + 1)) AS places(place) ORDER BY window_id, t, place"""


@pytest.mark.parametrize("name", ["threshold-1.3", "threshold-of-two-temperatures-1.3"])
def test_duckdb_finds_the_same_entries_and_draws(name: str) -> None:
    store = Store.open(GOLDEN / name / "store")
    schema, files = store.targets, f"{GOLDEN / name}/store/shards/*.parquet"
    assert schema.head is not None
    options = {"files": files, "step": schema.head.step, "grid_step": schema.grid_step}
    entries = duckdb.execute(ENTRIES.format(**options)).fetchall()
    drawn = duckdb.execute(DRAWN.format(**options)).fetchall()
    expected_entries, expected_drawn, logprobs = [], [], []
    for window in sorted(store, key=lambda one: one.window_id):
        targets, samples = window.targets, window.targets.samples
        assert samples is not None
        for t, rank in np.argwhere(np.isfinite(targets.logits_TK)).tolist():
            expected_entries.append((window.window_id, t, rank, int(targets.ids_TK[t, rank])))
            logprobs.append(targets.logprobs_TK(1.0)[t, rank])
        ends_T = np.cumsum(samples.num_samples_T)
        for t, (end, num) in enumerate(zip(ends_T, samples.num_samples_T, strict=True)):
            ids = samples.ids_S[end - num : end].tolist()
            expected_drawn += [
                (window.window_id, t, place + 1, one) for place, one in enumerate(ids)
            ]
    assert [row[:4] for row in entries] == expected_entries
    np.testing.assert_allclose([row[4] for row in entries], logprobs, rtol=1e-5, atol=1e-5)
    assert drawn == expected_drawn
    assert len(drawn) > 5
