from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from softtargets.errors import CorruptionError
from softtargets.store.codec import decode_rows, encode
from softtargets.store.schema import arrow_schema
from softtargets.targets import drawn_ids
from softtargets.window import Window
from tests.windows import KINDS, make_window

SAMPLED = [kind for kind, schema in KINDS.items() if schema.samples is not None]
_SAMPLES = ("sample_ids", "sample_counts", "sample_logits")


def make_table(rng: np.random.Generator, kind: str) -> tuple[list[Window], pa.Table]:
    schema = KINDS[kind]
    windows = [
        make_window(rng, schema, num_tokens=length, trained=0.7)[0] for length in (2, 30, 7, 3, 40)
    ]
    return windows, encode(windows, arrow_schema(schema, "f" * 64, 0))


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 60, 1 << 20])
@pytest.mark.parametrize("kind", SAMPLED)
def test_rows_have_the_samples_of_their_window_however_many_are_unpacked_at_once(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, kind: str, most: int
) -> None:
    monkeypatch.setattr(drawn_ids, "_BLOCK_SAMPLES", most)
    windows, table = make_table(rng, kind)
    for window, row in zip(windows, decode_rows(table, KINDS[kind], "here"), strict=True):
        expected = window.targets.samples
        assert expected is not None
        np.testing.assert_array_equal(row.cell("num_samples"), expected.num_samples_T)
        for name, own in zip(
            _SAMPLES, (expected.ids_S, expected.counts_S, expected.logits_S), strict=True
        ):
            assert (own is None) == (name not in row.columns)
            if own is not None:
                np.testing.assert_array_equal(row.cell(name), own)
                assert row.cell(name).dtype == own.dtype


@pytest.mark.parametrize("most", [1, 60, 1 << 20])
def test_a_row_that_cannot_be_unpacked_is_named(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(drawn_ids, "_BLOCK_SAMPLES", most)
    _, table = make_table(rng, "hybrid")
    place = table.column_names.index("sample_gaps")
    cells = table.column(place).to_pylist()
    cells[3][0] = 299
    cells[3][1] = 299
    table = table.set_column(place, table.field(place), pa.array(cells, table.field(place).type))
    with pytest.raises(CorruptionError, match=r"here, row 3, samples.*ids from 0 to 299"):
        decode_rows(table, KINDS["hybrid"], "here")
