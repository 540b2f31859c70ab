"""A store is plain Parquet: readers that know nothing of softtargets see its typed columns."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path

import duckdb
import numpy as np
import polars
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from softtargets.store import Store
from tests.golden import GOLDEN


@pytest.mark.slow
def test_every_reader_sees_the_same_columns(store: Store, tmp_path: Path) -> None:
    windows = list(store)
    files = f"{store.root}/shards/*.parquet"
    expected_ids = [window.input_ids_L.tolist() for window in windows]
    expected_tail = np.concatenate([window.targets.tail_mass_TG[:, 0] for window in windows])

    rows = duckdb.execute(
        f"SELECT input_ids, tail_mass_t1 FROM read_parquet('{files}', filename=true, "
        "file_row_number=true) ORDER BY filename, file_row_number"
    ).fetchall()
    assert [row[0] for row in rows] == expected_ids
    np.testing.assert_array_equal(
        np.concatenate([np.array(row[1], np.float32) for row in rows]), expected_tail
    )

    frame = polars.read_parquet(files)
    assert frame["input_ids"].to_list() == expected_ids
    np.testing.assert_array_equal(
        frame["tail_mass_t1"].explode().to_numpy().astype(np.float32), expected_tail
    )

    dataset = load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert dataset["input_ids"][:] == expected_ids
    assert {"label_logit", "label_rank", "tail_mass_t2", "top_logit", "window_id"} <= set(
        dataset.column_names
    )


def test_duckdb_lists_the_shards_of_a_table() -> None:
    root = GOLDEN / "shard-table-1.6" / "store"
    shards = Store.open(root).manifest.shards
    columns = "path, lower(hex(sha256)), lower(hex(footer_xxh3)), run"
    rows = duckdb.execute(f"SELECT {columns} FROM '{root}/shards.parquet' ORDER BY unit").fetchall()
    assert rows == [(one.path, one.sha256, one.footer_xxh3, json.dumps(one.run)) for one in shards]
    groups = "SELECT unit, unnest(row_groups) AS own FROM"
    rows = duckdb.execute(
        f"SELECT own.num_windows, own.num_positions, own.offset, own.num_bytes, "
        f"lower(hex(own.xxh3)) FROM ({groups} '{root}/shards.parquet') ORDER BY unit, own.offset"
    ).fetchall()
    assert rows == [astuple(group) for one in shards for group in one.row_groups]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
def test_every_reader_opens_every_kind(name: str, tmp_path: Path) -> None:
    """Whatever encodings the columns have, others read the same numbers from them."""
    files = f"{GOLDEN / name}/store/shards/*.parquet"
    expected = pq.read_table(f"{GOLDEN / name}/store/shards", page_checksum_verification=True)
    frame = polars.read_parquet(files)
    dataset = load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    rows = duckdb.execute(
        f"SELECT * EXCLUDE (filename, file_row_number) FROM read_parquet('{files}', "
        "filename=true, file_row_number=true) ORDER BY filename, file_row_number"
    )
    names = [column[0] for column in rows.description or []]
    found = dict(zip(names, zip(*rows.fetchall(), strict=True), strict=True))
    assert (
        set(names) == set(frame.columns) == set(dataset.column_names) == set(expected.schema.names)
    )
    for column in names:
        values = expected[column].to_pylist()
        assert str(list(found[column])) == str(values), f"duckdb, {column}"
        assert str(frame[column].to_list()) == str(values), f"polars, {column}"
        assert str(dataset[column][:]) == str(values), f"datasets, {column}"
