from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import pytest

from softtargets.errors import CorruptionError
from softtargets.store.codec import decode, encode
from softtargets.store.schema import TargetSchema, arrow_schema
from softtargets.window import Window
from tests.fakes import make_window


def schema_of(
    vocab_size: int = 300, k: int = 8, values: Literal["steps", "float32"] = "steps"
) -> TargetSchema:
    return TargetSchema(
        top_k=k,
        temperatures=(1.0, 2.0),
        vocab_size=vocab_size,
        tokenizer_vocab_size=vocab_size,
        values=values,
    )


def assert_equal(found: Window, expected: Window) -> None:
    assert found.window_id == expected.window_id
    assert found.document_ids == expected.document_ids
    assert (found.source, found.offset) == (expected.source, expected.offset)
    for name in ("input_ids_L", "mask_T", "segment_lengths_S"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    for name in ("ids_TK", "logits_TK", "num_entries_T", "tail_mass_TG", "label_logit_T",
                 "label_rank_T"):  # fmt: skip
        assert np.array_equal(getattr(found.targets, name), getattr(expected.targets, name)), name


@pytest.mark.parametrize("values", ["steps", "float32"])
@pytest.mark.parametrize(
    ("vocab_size", "k"), [(300, 8), (200, 1), (151_936, 5), (262_144, 3), (40, 40)]
)
def test_windows_of_any_lengths_come_back(
    rng: np.random.Generator, vocab_size: int, k: int, values: Literal["steps", "float32"]
) -> None:
    targets = schema_of(vocab_size, k, values)
    step = targets.step if values == "steps" else None
    windows = [
        make_window(rng, num_tokens=length, vocab_size=vocab_size, k=k, step=step)[0]
        for length in (2, 7, 3, 30)
    ]
    table = encode(windows, arrow_schema(targets, "f" * 64, 0), targets)
    for found, expected in zip(decode(table, targets, "here"), windows, strict=True):
        assert_equal(found, expected)


def test_escapes_go_to_the_window_they_belong_to(rng: np.random.Generator) -> None:
    targets = schema_of()
    windows = [make_window(rng, num_tokens=length, scale=400)[0] for length in (5, 2, 9)]
    assert sum(len(window.packed.escapes_E) for window in windows) > 10
    table = encode(windows, arrow_schema(targets, "f" * 64, 0), targets)
    for found, expected in zip(decode(table, targets, "here"), windows, strict=True):
        assert_equal(found, expected)


@pytest.mark.parametrize("column", ["id_plane_1", "steps", "tail_mass_t2", "label_rank", "mask"])
def test_columns_that_disagree_on_positions_are_refused(
    rng: np.random.Generator, column: str
) -> None:
    targets = schema_of()
    schema = arrow_schema(targets, "f" * 64, 0)
    table = encode([make_window(rng, num_tokens=length)[0] for length in (4, 6)], schema, targets)
    index = schema.get_field_index(column)
    swapped = table.column(index).take(pa.array([1, 0]))
    with pytest.raises(CorruptionError, match=r"here, .*(positions)"):
        decode(table.set_column(index, schema.field(index), swapped), targets, "here")


def test_columns_are_typed_for_readers_without_softtargets(rng: np.random.Generator) -> None:
    schema = arrow_schema(schema_of(), "f" * 64, 0)
    kinds = {field.name: str(field.type) for field in schema}
    assert kinds["input_ids"] == "list<element: int32 not null>"
    assert kinds["tail_mass_t1"] == kinds["label_logit"] == "list<element: float not null>"
    assert kinds["id_plane_0"] == "list<element: fixed_size_binary[8] not null>"
    assert kinds["steps"] == "list<element: fixed_size_binary[4] not null>"


def test_temperatures_have_column_names_without_dots() -> None:
    schema = TargetSchema(
        top_k=1, temperatures=(0.5, 1.0, 10.0), vocab_size=9, tokenizer_vocab_size=9
    )
    assert schema.tail_columns == ("tail_mass_t0_5", "tail_mass_t1", "tail_mass_t10")
    assert TargetSchema.from_dict(schema.to_dict()) == schema
