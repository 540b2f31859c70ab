from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from softtargets.errors import CorruptionError, FormatError, IdentityError, StoreError
from softtargets.store import Store
from softtargets.store.manifest import check_schema, first_difference
from tests.fakes import build_store


def edit_manifest(store: Store, change: Callable[[dict[str, Any]], None]) -> None:
    path = store.root / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_iteration_is_in_the_order_of_the_corpus(store: Store) -> None:
    windows = list(store)
    assert len(windows) == len(store) > 20
    places = [(int(window.document_ids[0]), window.offset) for window in windows]
    assert places == sorted(places)
    assert len(store.manifest.shards) > 3
    assert store.num_positions == sum(len(window.packed) for window in windows)


def test_a_window_is_found_by_its_id(store: Store) -> None:
    for window in store:
        assert np.array_equal(store[window.window_id].input_ids_L, window.input_ids_L)
        assert window.window_id in store
    assert "0" * 32 not in store
    assert 3 not in store
    with pytest.raises(KeyError, match="0" * 32):
        store["0" * 32]


def test_repr_says_what_is_in_it(store: Store) -> None:
    assert re.search(r"\d+ windows, \d+ positions, topk 8, temperatures \[1.0, 2.0\]", repr(store))


def test_the_written_manifest_follows_its_schema(store: Store) -> None:
    data = json.loads((store.root / "manifest.json").read_text())
    check_schema(data, "manifest", "here")
    assert set(data) == {
        "format_version", "fingerprint", "created_by", "teacher", "identity", "corpus", "shards"
    }  # fmt: skip


def test_every_shard_describes_itself(store: Store) -> None:
    for entry in store.manifest.shards:
        file = pq.ParquetFile(store.root / entry.path)
        metadata = json.loads(file.schema_arrow.metadata[b"softtargets"])
        assert metadata["format_version"] == "1.0"
        assert metadata["fingerprint"] == store.fingerprint
        assert metadata["targets"] == store.targets.to_dict()
        assert metadata["unit"] == entry.unit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version="2.0"), r"format_version 1.x; found '2.0'"),
        (lambda m: m.update(format_version=None), "found None"),
        (lambda m: m.pop("shards"), "field .root.*'shards' is a required property"),
        (lambda m: m["shards"][0].update(path="../outside.parquet"), "field shards.0.path"),
        (lambda m: m["shards"][0].update(path="/etc/passwd"), "field shards.0.path"),
        (lambda m: m["shards"][0].update(num_bytes=-1), "field shards.0.num_bytes"),
        (lambda m: m["shards"][0].update(sha256="x"), "field shards.0.sha256"),
        (lambda m: m["identity"]["targets"].update(top_k="8"), "identity.targets.top_k"),
        (lambda m: m["identity"]["targets"].update(kind="other"), "identity.targets.kind"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused(
    store: Store, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    edit_manifest(store, change)
    with pytest.raises(FormatError, match=message):
        Store.open(store.root)


def test_an_edited_identity_is_noticed(store: Store) -> None:
    edit_manifest(store, lambda m: m["identity"]["teacher"].update(dtype="float16"))
    with pytest.raises(CorruptionError, match=r"field fingerprint.* was edited"):
        Store.open(store.root)


def test_a_manifest_that_is_no_json_is_refused(store: Store) -> None:
    (store.root / "manifest.json").write_text('{"format_version": ')
    with pytest.raises(FormatError, match=r"manifest.json: expected a JSON object"):
        Store.open(store.root)


def test_what_is_no_store_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="found no such directory"):
        Store.open(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="found a directory without one"):
        Store.open(tmp_path)
    (tmp_path / "work").mkdir()
    with pytest.raises(StoreError, match="found an unfinished build"):
        Store.open(tmp_path)


def test_a_truncated_or_missing_shard_is_named(store: Store) -> None:
    path = store.root / store.manifest.shards[1].path
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(CorruptionError, match=rf"{path.name}: expected {len(content):,} bytes"):
        list(store)
    path.unlink()
    with pytest.raises(CorruptionError, match=r"found no file"):
        list(store)


def test_a_flipped_bit_is_never_read_silently(store: Store) -> None:
    """Every byte of a shard, one bit each: an error, or the same arrays."""
    entry = store.manifest.shards[0]
    path = store.root / entry.path
    content = path.read_bytes()
    with store.open_shard(0) as reader:
        expected = reader.read_row_group(0)
    caught = 0
    for at in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        try:
            with store.open_shard(0) as reader:
                found = reader.read_row_group(0)
        except (CorruptionError, FormatError, IdentityError):
            caught += 1
            continue
        for window, original in zip(found, expected, strict=True):
            assert window.window_id == original.window_id, at
            assert np.array_equal(window.input_ids_L, original.input_ids_L), at
            assert np.array_equal(window.targets.ids_TK, original.targets.ids_TK), at
            assert np.array_equal(window.targets.logits_TK, original.targets.logits_TK), at
    assert caught > 0.5 * len(range(0, len(content), 7))


def test_a_shard_of_another_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = build_store(tmp_path / "a")
    other = build_store(tmp_path / "b", temperatures=(1.0, 3.0))
    entry = other.manifest.shards[0]
    content = (other.root / entry.path).read_bytes()
    (one.root / one.manifest.shards[0].path).write_bytes(content)
    edit_manifest(one, lambda m: m["shards"][0].update(num_bytes=len(content)))
    with pytest.raises(IdentityError, match=r"unit-000000.parquet, field fingerprint"):
        list(Store.open(one.root))


def test_swapped_shards_are_refused(store: Store) -> None:
    shards = store.manifest.shards
    first, second = (store.root / shard.path for shard in shards[:2])
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])

    def swap_sizes(manifest: dict[str, Any]) -> None:
        one, other = manifest["shards"][:2]
        one["num_bytes"], other["num_bytes"] = other["num_bytes"], one["num_bytes"]

    edit_manifest(store, swap_sizes)
    with pytest.raises(IdentityError, match="field unit: expected 0; found 1"):
        list(Store.open(store.root))


def test_the_first_difference_is_named() -> None:
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == ("a[1].b", 2, 3)
    assert first_difference({"a": 1}, {"a": 1, "c": 4}) == ("c", None, 4)
    assert first_difference({"a": [1]}, {"a": [1, 2]}) == ("a", [1], [1, 2])
    assert first_difference({"a": [1]}, {"a": [1]}) is None
