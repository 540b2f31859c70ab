"""What asks for much more memory than its size is refused before it gets it, and can be allowed."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from softtargets import SoftTargetDataset, Store
from softtargets.errors import CorruptionError, FormatError, LimitError
from softtargets.store import verify
from softtargets.store.manifest import parse_manifest
from softtargets.store.vocabulary import encode_vocabulary
from softtargets.targets import columns_of
from softtargets.tokenizer import Vocabulary
from tests.forgery import (
    TableChange,
    forge_manifest,
    forge_shard,
    forge_side_file,
    list_of_lists,
    with_column,
    with_texts,
    with_zeros,
)
from tests.golden import write_store
from tests.windows import KINDS, make_window

MANIFEST = Path(__file__).parent / "golden" / "topk-1.2" / "store" / "manifest.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng, schema = np.random.default_rng(0), KINDS["topk"]
    windows = [make_window(rng, schema, num_tokens=20)[0] for _ in range(4)]
    write_store(tmp_path / "store", schema, [windows])
    return tmp_path / "store"


BOMBS: dict[str, tuple[Callable[[], TableChange], dict[str, Any]]] = {
    "a run of one number": (partial(with_zeros, "escapes", 16_000_000), {"use_dictionary": True}),
    "zeros": (partial(with_zeros, "escapes", 16_000_000), {"use_dictionary": False}),
    "a long text often": (partial(with_texts, 100_000, 2000), {"use_dictionary": True}),
    "texts that begin like those before": (
        partial(with_texts, 10_000, 20_000),
        {
            "use_dictionary": False,
            "column_encoding": {"document_ids.list.element": "DELTA_BYTE_ARRAY"},
        },
    ),
}
"""What makes each, as together they take half a gigabyte; and how it is written."""


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_shard_that_unpacks_to_far_more_than_its_size_is_refused(root: Path, bomb: str) -> None:
    make, options = BOMBS[bomb]
    forge_shard(root, make(), **options)
    store = Store.open(root)
    assert store.num_bytes < 100_000
    with pytest.raises(LimitError, match=r"row group 0: .*set SOFTTARGETS_MAX_UNPACKED_BYTES="):
        store.read_row_group(store.row_groups[0])
    [problem] = verify(root).problems
    assert "SOFTTARGETS_MAX_UNPACKED_BYTES" in problem.expected


def test_a_shard_is_read_when_the_limit_allows_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "y" * 1000
    names = [(long,) * len(window.document_ids) for window in Store.open(root)]
    forge_shard(root, with_column("document_ids", names), use_dictionary=True)
    monkeypatch.setenv("SOFTTARGETS_MAX_UNPACKED_BYTES", "100")
    # It is about as large as its file: that needs no limit.
    monkeypatch.setattr("softtargets.store.pages._USUAL_RATIO", 0)
    with pytest.raises(LimitError):
        list(Store.open(root))
    monkeypatch.setenv("SOFTTARGETS_MAX_UNPACKED_BYTES", "100000")
    assert [window.document_ids for window in Store.open(root)] == names


@pytest.mark.slow
def test_a_window_that_takes_far_more_to_compute_with_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_positions = 500_000
    repeated = np.zeros(num_positions, np.int64)

    def change(table: pa.Table) -> pa.Table:
        table = with_column("escapes", [[]])(table.slice(0, 1))
        for column in columns_of(KINDS["topk"]):
            if column.rows in ("tokens", "targets"):
                one = table.column(column.name).combine_chunks().values
                more = [0] if column.rows == "tokens" else []
                values = one.take(pa.array(np.concatenate([repeated, np.array(more, np.int64)])))
                table = with_column(column.name, list_of_lists(values, 1))(table)
        steps = pa.array([bytes(4)] * num_positions, pa.binary(4))
        table = with_column("steps", list_of_lists(steps, 1))(table)
        table = with_column("document_ids", [["a"]])(table)
        return with_column("segment_lengths", [[num_positions + 1]])(table)

    forge_shard(root, change)
    variable = "SOFTTARGETS_MAX_WINDOW_BYTES"
    monkeypatch.setenv(variable, "159999999")
    with pytest.raises(LimitError, match=f"longest window: .*set {variable}=160000000"):
        Store.open(root).read_row_group(Store.open(root).row_groups[0])
    monkeypatch.setenv(variable, "160000000")
    assert len(Store.open(root).read_rows(Store.open(root).row_groups[0])) == 1


@pytest.mark.slow
def test_a_vocabulary_whose_tokens_begin_like_those_before_is_refused(root: Path) -> None:
    tokens = ("y" * 20_000,) * 10_000
    ids_N = np.arange(len(tokens), dtype=np.int32)
    content = encode_vocabulary(
        Vocabulary(ids_N=ids_N, tokens=tokens, utf8=tuple(one.encode() for one in tokens))
    )
    assert len(content) < 100_000
    forge_side_file(root, "vocabulary", content)
    with pytest.raises(LimitError, match="set SOFTTARGETS_MAX_VOCABULARY_BYTES="):
        _ = Store.open(root).vocabulary


def test_ids_that_are_none_are_named(root: Path) -> None:
    forge_shard(root, with_column("window_id", ["0" * 32, "y" * 5000, "0" * 32, "0" * 32]))
    with pytest.raises(CorruptionError, match=r"row 1, column window_id: .*found 'yyy") as caught:
        Store.open(root).window_ids()
    assert len(str(caught.value)) < 500
    with pytest.raises(CorruptionError, match="column window_id"):
        list(SoftTargetDataset(root, shuffle=False, seed=0, batch_size=2))


def test_ids_that_are_no_texts_are_named(root: Path) -> None:
    ids = pa.array([b"0" * 32, b"\xd5" * 32, b"0" * 32, b"0" * 32])
    texts = pa.StringArray.from_buffers(len(ids), *ids.buffers()[1:])
    forge_shard(root, with_column("window_id", texts))
    with pytest.raises(CorruptionError, match=r"row 1, column window_id: .*found '\\\\xd5"):
        Store.open(root).window_ids()
    assert "column window_id" in verify(root).problems[0].where


def edited(**changes: Any) -> bytes:
    return json.dumps(json.loads(MANIFEST.read_text()) | changes).encode()


def replaced(field: str, text: str) -> bytes:
    return edited(**{field: "@"}).replace(b'"@"', text.encode())


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"[" * 100_000, "200 levels"),
        (replaced("teacher", '{"a":' * 300 + "1" + "}" * 300), "200 levels"),
        (replaced("teacher", "1" * 5000), "5000 digits"),
        (replaced("teacher", "NaN"), "NaN"),
        (replaced("teacher", "-Infinity"), "-Infinity"),
        (replaced("teacher", "1e999"), "1e999"),
        (replaced("teacher", r'"\ud800"'), "surrogates"),
        (replaced("teacher", r'{"\uDFFF": 1}'), "surrogates"),
        (replaced("teacher", '"a", "teacher": "b"'), "key 'teacher' twice"),
        (edited()[:-1] + b"\xff", "0xff"),
        (edited().decode().encode("utf-16"), "0xff"),
        (edited(shards=[{}] * 100_000), "required property"),
    ],
)
def test_a_manifest_that_is_no_plain_json_object_is_refused(content: bytes, found: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_manifest(content, "here")
    assert found in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_half_a_character_is_taken_when_the_other_half_follows() -> None:
    content = replaced("teacher", r'"\ud83d\ude00"')
    assert parse_manifest(content, "here").teacher == "\U0001f600"


def test_a_minor_version_of_thousands_of_digits_is_a_newer_one() -> None:
    content = edited(format_version="1." + "9" * 5000, teacher=0)
    with pytest.raises(FormatError, match="read it with a newer release"):
        parse_manifest(content, "here")


def change_row_group(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["shards"][0]["row_groups"][0].update(changes)


def change_targets(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["identity"]["targets"].update(changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            lambda manifest: manifest["shards"][0].update(path=f"shards/{'a' * 300}.parquet"),
            FormatError,
            "shards.0.path",
        ),
        (
            change_row_group(num_windows=20_000),
            LimitError,
            "SOFTTARGETS_MAX_ROW_GROUP_WINDOWS=20000",
        ),
        (change_row_group(num_windows=10_000), FormatError, "may hold the ids of their windows"),
        (change_targets(vocab_size=300.0), FormatError, r"vocab_size: expected a whole number"),
        (
            change_targets(head={"max_entries": 8.0, "values": "steps", "step": 0.0625}),
            FormatError,
            r"head.max_entries: expected a whole number",
        ),
        (
            change_targets(metadata=[f"{number}" for number in range(5000)]),
            LimitError,
            "SOFTTARGETS_MAX_COLUMNS=5",
        ),
    ],
)
def test_a_manifest_whose_numbers_cannot_be_is_refused(
    root: Path, change: Callable[[dict[str, Any]], None], kind: type[Exception], message: str
) -> None:
    forge_manifest(root, change)
    with pytest.raises(kind, match=message):
        Store.open(root)


def test_a_shard_that_is_listed_twice_is_refused(root: Path) -> None:
    forge_manifest(
        root, lambda manifest: manifest["shards"].append(manifest["shards"][0] | {"unit": 1})
    )
    with pytest.raises(FormatError, match=r"field shards\.1: expected a path that no shard before"):
        Store.open(root)


def test_positions_beyond_counting_are_refused(root: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        [shard] = manifest["shards"]
        [group] = shard["row_groups"]
        half = group["num_bytes"] // 2
        group |= {"num_positions": 2**53 - 1, "num_bytes": half}
        other = {"offset": half, "num_bytes": shard["num_bytes"] - shard["footer_bytes"] - half}
        shard["row_groups"] = [group, {**group, **other}]

    forge_manifest(root, change)
    with pytest.raises(FormatError, match="at most 9,007,199,254,740,991 positions"):
        Store.open(root)


@pytest.mark.parametrize(
    ("variable", "where"),
    [
        ("SOFTTARGETS_MAX_MANIFEST_BYTES", "manifest.json"),
        ("SOFTTARGETS_MAX_FOOTER_BYTES", "footer"),
    ],
)
def test_what_is_larger_than_its_limit_is_not_read(
    root: Path, monkeypatch: pytest.MonkeyPatch, variable: str, where: str
) -> None:
    monkeypatch.setenv(variable, "100")
    with pytest.raises(LimitError, match=f"{where}: .*set {variable}=") as caught:
        list(Store.open(root))
    monkeypatch.setenv(variable, caught.value.found.replace(",", ""))
    assert len(list(Store.open(root))) == 4
