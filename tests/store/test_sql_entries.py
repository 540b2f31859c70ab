"""Entries read by DuckDB in SQL alone: a second implementation of FORMAT.md.

It shares nothing with softtargets and the plain reader, neither a language nor a library for
arrays. What it needs to know of the targets it takes from the shards' own metadata.
"""

from __future__ import annotations

import duckdb
import numpy as np
import pytest

from softtargets.store import Store
from tests.golden import GOLDEN
from tests.test_format_page import WITH_PLANES, column_names

QUERY = """
WITH described AS (
    SELECT decode(value)::JSON -> 'targets' AS targets
    FROM parquet_kv_metadata('{files}') WHERE decode(key) = 'softtargets' LIMIT 1
), head AS (
    SELECT (targets ->> '$.head.max_entries')::INT AS k,
        (targets ->> '$.head.step')::DOUBLE AS step,
        (targets ->> '$.head.values') AS kind,
        (targets ->> '$.temperatures')::DOUBLE[] AS taus
    FROM described
), windows AS (
    SELECT filename, file_row_number, columns('^(num_entries|top_logit|escapes|{bytes})$'),
        [*columns('^id_plane_')] AS planes, {tails} AS tails
    FROM read_parquet('{files}', filename = true, file_row_number = true)
), positions AS (
    SELECT filename, file_row_number, {escapes} AS escapes,
        unnest(range(len(num_entries))) AS t,
        unnest(num_entries) AS num_entries,
        unnest(top_logit) AS top_logit,
        unnest({bytes}) AS bytes,
        unnest([[hex(plane[i]) FOR plane IN planes] FOR i IN range(1, 1 + len(num_entries))])
            AS planes,
        unnest([[tail[i] FOR tail IN tails] FOR i IN range(1, 1 + len(num_entries))]) AS tails
    FROM windows
), entries AS (
    SELECT *, hex(bytes) AS digits, unnest(range(num_entries)) AS rank FROM positions
), halves AS (
    SELECT *, CASE WHEN kind = 'steps' THEN instr('0123456789ABCDEF', digits[
        CASE WHEN rank < (k + 1) // 2 THEN 2 * rank + 2 ELSE 2 * (rank - (k + 1) // 2) + 1 END
    ]) - 1 END AS half
    FROM entries, head
), differences AS (
    SELECT *, CASE WHEN half = 15 THEN escapes[(sum((half = 15)::INT) OVER (
        PARTITION BY filename, file_row_number ORDER BY t, rank))::INT] ELSE half END AS difference
    FROM halves
), bits AS (
    SELECT *, ('0x' || digits[8 * rank + 7 : 8 * rank + 8] || digits[8 * rank + 5 : 8 * rank + 6]
        || digits[8 * rank + 3 : 8 * rank + 4] || digits[8 * rank + 1 : 8 * rank + 2]) AS float32
    FROM differences
), logits AS (
    SELECT *, CASE WHEN kind = 'steps' THEN top_logit::DOUBLE - step * sum(difference) OVER (
            PARTITION BY filename, file_row_number, t ORDER BY rank)
        WHEN float32::BIGINT % 2147483648 = 0 THEN 0
        ELSE (CASE WHEN float32::BIGINT >> 31 = 1 THEN -1 ELSE 1 END)
            * pow(2, ((float32::BIGINT >> 23) % 256) - 150)
            * (float32::BIGINT % 8388608 + 8388608) END AS z
    FROM bits
), grid AS (
    SELECT *, unnest(range(1, 1 + greatest(1, len(taus)))) AS g FROM logits
), sums AS (
    SELECT *, (z - top_logit) / taus[g] - ln(sum(exp((z - top_logit) / taus[g])) OVER (
        PARTITION BY filename, file_row_number, t, g)) + ln(1 - tails[g]::DOUBLE) AS logprob
    FROM grid
)
SELECT list_sum([('0x' || planes[p][2 * rank + 1 : 2 * rank + 2])::BIGINT << (8 * (p - 1))
        FOR p IN range(1, 1 + len(planes))])::BIGINT,
    z, logprob
FROM sums ORDER BY filename, file_row_number, t, rank, g
"""
"""Rows of id, logit and log-probability, for every entry and temperature in order."""


def query_of(files: str, columns: list[str]) -> str:
    """Return the query with the columns that a store has, which is all that differs."""
    has_tails = any(name.startswith("tail_mass_t") for name in columns)
    return QUERY.format(
        files=files,
        bytes="steps" if "steps" in columns else "logits",
        escapes="escapes" if "escapes" in columns else "[]::INT[]",
        tails="[*columns('^tail_mass_t')]" if has_tails else "[]::FLOAT[][]",
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_PLANES)
def test_sql_alone_finds_the_entries(name: str) -> None:
    store = Store.open(GOLDEN / name / "store")
    files = f"{GOLDEN / name}/store/shards/*.parquet"
    rows = duckdb.execute(query_of(files, column_names(store))).fetchall()
    targets = [window.targets for window in store]
    kept = np.concatenate([np.isfinite(one.logits_TK) for one in targets])
    taus = store.targets.temperatures
    num_taus = max(1, len(taus))
    assert len(rows) == kept.sum() * num_taus
    ids = np.concatenate([one.ids_TK for one in targets])[kept]
    assert [row[0] for row in rows[::num_taus]] == ids.tolist()
    logits = np.concatenate([one.logits_TK for one in targets])[kept]
    found = np.array([row[1] for row in rows[::num_taus]], np.float32)
    np.testing.assert_array_equal(found, logits)
    if not taus:
        assert {row[2] for row in rows} == {None}
    for at, tau in enumerate(taus):
        expected = np.concatenate([one.logprobs_TK(tau) for one in targets])[kept]
        rounding = float(np.spacing(np.abs(logits).max())) / tau
        found = np.array([row[2] for row in rows[at::num_taus]])
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 + rounding)
