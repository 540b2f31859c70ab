from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pyarrow as pa
import pytest

from softtargets.errors import CorruptionError
from softtargets.kinds import TargetSchema
from softtargets.store.codec import decode, encode
from softtargets.store.invariants import check_window
from softtargets.store.schema import arrow_schema, grid_columns
from softtargets.targets import columns_of
from softtargets.window import Window
from tests.windows import KINDS, make_window, topk_schema


def round_trip(windows: list[Window], schema: TargetSchema) -> list[Window]:
    return decode(encode(windows, arrow_schema(schema, "f" * 64, 0)), schema, "here")


def assert_same(found: object, expected: object, name: str = "window") -> None:
    """Compare two values field by field, arrays with their types."""
    assert type(found) is type(expected), name
    if dataclasses.is_dataclass(expected):
        for field in dataclasses.fields(expected):
            inner = f"{name}.{field.name}"
            assert_same(getattr(found, field.name), getattr(expected, field.name), inner)
    elif isinstance(expected, dict):
        assert isinstance(found, dict)
        assert list(found) == list(expected), name
        for key, value in expected.items():
            assert_same(found[key], value, f"{name}.{key}")
    elif isinstance(expected, tuple):
        assert isinstance(found, tuple)
        assert len(found) == len(expected), name
        for index, value in enumerate(expected):
            assert_same(found[index], value, f"{name}[{index}]")
    elif isinstance(expected, np.ndarray):
        assert isinstance(found, np.ndarray)
        assert found.dtype == expected.dtype, name
        np.testing.assert_array_equal(found, expected, name)
    else:
        assert found == expected, name


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_windows_of_every_kind_and_length_come_back(rng: np.random.Generator, kind: str) -> None:
    schema = KINDS[kind]
    windows = [
        make_window(rng, schema, num_tokens=length, trained=0.7, ruled_out=0.3)[0]
        for length in (2, 7, 3, 30)
    ]
    for found, expected in zip(round_trip(windows, schema), windows, strict=True):
        assert_same(found, expected)
        assert_same(found.targets, expected.targets)
        assert list(check_window(found, "here")) == []


@pytest.mark.slow
@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize(
    ("vocab_size", "k"), [(300, 8), (200, 1), (49_152, 64), (151_936, 5), (262_144, 3), (40, 40)]
)
def test_ids_of_any_vocabulary_come_back(
    rng: np.random.Generator, vocab_size: int, k: int, lossless: bool
) -> None:
    schema = topk_schema(k, vocab_size=vocab_size, lossless=lossless)
    windows = [make_window(rng, schema, num_tokens=length)[0] for length in (2, 7, 3, 9)]
    for found, expected in zip(round_trip(windows, schema), windows, strict=True):
        assert_same(found.targets, expected.targets)


@pytest.mark.parametrize("row", range(3))
def test_one_row_is_read_like_all(rng: np.random.Generator, row: int) -> None:
    schema = KINDS["hybrid"]
    windows = [make_window(rng, schema, num_tokens=length)[0] for length in (4, 9, 6)]
    table = encode(windows, arrow_schema(schema, "f" * 64, 0)).slice(row, 1)
    [found] = decode(table, schema, "here")
    assert_same(found.targets, windows[row].targets)


def test_escapes_go_to_the_window_they_belong_to(rng: np.random.Generator) -> None:
    windows = [make_window(rng, num_tokens=length, scale=400)[0] for length in (5, 2, 9)]
    assert sum(len(window.packed.cells["escapes"]) for window in windows) > 10
    for found, expected in zip(round_trip(windows, topk_schema()), windows, strict=True):
        assert_same(found.targets, expected.targets)


@cache
def table_of_two(kind: str) -> pa.Table:
    """Return a table of two windows, which are made once for all columns."""
    rng, schema = np.random.default_rng(0), KINDS[kind]
    windows = [make_window(rng, schema, num_tokens=length)[0] for length in (8, 14)]
    return encode(windows, arrow_schema(schema, "f" * 64, 0))


def with_swapped_cells(table: pa.Table, column: str) -> pa.Table:
    """Return a table of two windows where they have each other's cell of a column."""
    index = table.schema.get_field_index(column)
    swapped = table.column(index).take(pa.array([1, 0]))
    return table.set_column(index, table.schema.field(index), swapped)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "column"),
    [
        (kind, column.name)
        for kind, schema in KINDS.items()
        for column in columns_of(schema)
        if column.rows in ("tokens", "targets", "classes")
        # A window has one target, or as many as it lists, whatever its number of tokens is.
        and schema.predicts != "window"
        and (schema.positions == "all" or column.name != "input_ids")
    ],
)
def test_columns_that_disagree_on_positions_are_refused(kind: str, column: str) -> None:
    schema, sound = KINDS[kind], table_of_two(kind)
    assert len(decode(sound, schema, "here")) == 2
    with pytest.raises(CorruptionError, match=r"here, row 0, column \w+: expected \d+ elements"):
        decode(with_swapped_cells(sound, column), schema, "here")


def test_columns_are_typed_for_readers_without_softtargets() -> None:
    kinds = {
        field.name: str(field.type)
        for name in ("topk", "sampled-with-logits", "classes-of-tokens")
        for field in arrow_schema(KINDS[name], "f" * 64, 0)
    }
    assert kinds["input_ids"] == kinds["sample_gaps"] == "list<element: int32 not null>"
    assert kinds["tail_mass_t1"] == kinds["label_logit"] == "list<element: float not null>"
    assert kinds["class_logits"] == kinds["logsumexp_t2"] == "list<element: float not null>"
    assert kinds["id_plane_0"] == "list<element: fixed_size_binary[8] not null>"
    assert kinds["steps"] == "list<element: fixed_size_binary[4] not null>"


def test_temperatures_have_column_names_without_dots() -> None:
    schema = topk_schema(1, temperatures=(0.5, 1.0, 10.0))
    assert grid_columns(schema) == ("tail_mass_t0_5", "tail_mass_t1", "tail_mass_t10")
