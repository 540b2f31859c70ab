from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from softtargets.errors import (
    CorruptionError,
    FormatError,
    IdentityError,
    InputError,
    StoreError,
)
from softtargets.store import Store
from softtargets.store.json_schemas import check_schema
from softtargets.store.same_identity import first_difference
from softtargets.store.shard_table import ShardEntry
from softtargets.store.versions import version_of
from tests.fakes import build_store
from tests.forgery import forge_shard, with_column


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


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 1, 7, 11, 27, 28])
@pytest.mark.parametrize("stop", [0, 1, 7, 8, 20, 28, None])
def test_a_slice_is_read_from_its_own_row_groups(
    store: Store, start: int, stop: int | None
) -> None:
    ids = [window.window_id for window in store]
    assert len(ids) == 28
    end = len(ids) if stop is None else stop
    for ref in store.row_groups:
        if (
            not start < end
            or ref.first_window >= end
            or ref.first_window + ref.num_windows <= start
        ):
            # What is not asked for may be gone.
            (store.root / store.manifest.shards[ref.shard].path).unlink(missing_ok=True)
    if start > end:
        with pytest.raises(InputError, match="0 <= start <= stop <= 28; found start"):
            store.windows(start, stop)
    else:
        assert [window.window_id for window in store.windows(start, stop)] == ids[start:end]


def test_repr_says_what_is_in_it(store: Store) -> None:
    assert re.search(
        r"\d+ windows, \d+ positions, top 8 logits within 0.03125 nat, temp", repr(store)
    )


def test_the_written_manifest_follows_its_schema(store: Store) -> None:
    data = json.loads((store.root / "manifest.json").read_text())
    check_schema(data, "manifest", "here")
    assert set(data) == {
        "format_version", "fingerprint", "created_by", "teacher", "identity", "corpus", "shards",
        "vocabulary",
    }  # fmt: skip


def test_every_shard_describes_itself(store: Store) -> None:
    for entry in store.manifest.shards:
        file = pq.ParquetFile(store.root / entry.path)
        metadata = json.loads(file.schema_arrow.metadata[b"softtargets"])
        assert metadata["format_version"] == version_of(store.targets)
        assert metadata["fingerprint"] == store.fingerprint
        assert metadata["targets"] == store.targets.to_dict()
        assert metadata["unit"] == entry.unit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version="2.0"), r"format_version 1.x; found '2.0'"),
        (lambda m: m.update(format_version=None), "found None"),
        (lambda m: m.pop("shards"), "field .root.*.shards. is a required property"),
        (lambda m: m["shards"][0].update(path="../outside.parquet"), "field shards.0.path"),
        (lambda m: m["shards"][0].update(path="/etc/passwd"), "field shards.0.path"),
        (lambda m: m["shards"][0].update(num_bytes=-1), "field shards.0.num_bytes"),
        (lambda m: m["shards"][0].update(sha256="x"), "field shards.0.sha256"),
        (
            lambda m: m["identity"]["targets"]["head"].update(max_entries="8"),
            "identity.targets.head.max_entries",
        ),
        (lambda m: m["identity"]["targets"].update(kind="other"), "identity.targets.*'kind'"),
        (
            lambda m: m["identity"]["targets"]["head"].update(max_entries=301),
            "identity.targets: expected at most as many entries in a head as the vocabulary has",
        ),
        (
            lambda m: m["identity"]["targets"].update(temperatures=[1, 1.0000001]),
            "identity.targets: expected temperatures that differ in 6 digits",
        ),
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


def test_a_file_of_absurd_size_is_refused(store: Store) -> None:
    """A file may claim to be larger than any memory; nothing of the hole is ever on the disk."""
    entry = store.manifest.shards[0]
    with open(store.root / entry.path, "r+b") as file:
        file.truncate(1 << 43)
    end = entry.num_bytes - entry.footer_bytes
    growth = (1 << 43) - entry.num_bytes

    def claim_a_footer(manifest: dict[str, Any]) -> None:
        manifest["shards"][0].update(num_bytes=1 << 43, footer_bytes=entry.footer_bytes + growth)

    def claim_row_groups(manifest: dict[str, Any]) -> None:
        shard = manifest["shards"][0]
        shard.update(footer_bytes=entry.footer_bytes)
        for offset in range(end, end + growth, 1 << 34):
            size = min(1 << 34, end + growth - offset)
            shard["row_groups"].append(
                {**shard["row_groups"][0], "offset": offset, "num_bytes": size}
            )

    edit_manifest(store, claim_a_footer)
    with pytest.raises(FormatError, match=r"field shards.0.footer_bytes"):
        Store.open(store.root)
    edit_manifest(store, claim_row_groups)
    with pytest.raises(CorruptionError, match=r"unit-000000.parquet"):
        list(Store.open(store.root))


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_caught(store: Store) -> None:
    entry = store.manifest.shards[0]
    path = store.root / entry.path
    content = path.read_bytes()
    for at in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        with pytest.raises(CorruptionError, match=r"unit-000000.parquet, (footer|row group 0)"):
            list(store)


def test_page_checksums_are_there_for_other_readers(store: Store) -> None:
    entry = store.manifest.shards[0]
    path = store.root / entry.path
    content = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(5)
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match="CRC checksum verification failed"):
        pq.ParquetFile(path, page_checksum_verification=True).read()


def test_checksums_of_the_manifest_cover_every_byte(store: Store) -> None:
    for entry in store.manifest.shards:
        ends = [group.offset + group.num_bytes for group in entry.row_groups]
        assert [group.offset for group in entry.row_groups] == [0, *ends[:-1]]
        assert ends[-1] + entry.footer_bytes == entry.num_bytes


def retell(entry: ShardEntry, place: int) -> Callable[[dict[str, Any]], None]:
    """Return a change after which the manifest takes `entry` for the shard at a place."""

    def change(manifest: dict[str, Any]) -> None:
        own = manifest["shards"][place]
        told = {"unit": own["unit"], "path": own["path"]}
        own.update(json.loads(json.dumps(dataclasses.asdict(entry))) | told)

    return change


def test_a_shard_of_another_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = build_store(tmp_path / "a")
    other = build_store(tmp_path / "b", temperatures=(1.0, 3.0))
    entry = other.manifest.shards[0]
    shutil.copy(other.root / entry.path, one.root / entry.path)
    with pytest.raises(CorruptionError, match="unit-000000"):
        list(one)
    edit_manifest(one, retell(entry, 0))
    with pytest.raises(IdentityError, match=r"unit-000000.parquet, field fingerprint"):
        list(Store.open(one.root))


def test_swapped_shards_are_refused(store: Store) -> None:
    shards = store.manifest.shards
    first, second = (store.root / shard.path for shard in shards[:2])
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    with pytest.raises(CorruptionError, match="unit-000000"):
        list(store)
    edit_manifest(store, retell(shards[1], 0))
    edit_manifest(store, retell(shards[0], 1))
    with pytest.raises(IdentityError, match="field unit: expected 0; found 1"):
        list(Store.open(store.root))


def test_the_first_difference_is_named() -> None:
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == ("a[1].b", 2, 3)
    assert first_difference({"a": 1}, {"a": 1, "c": 4}) == ("c", None, 4)
    assert first_difference({"a": [1]}, {"a": [1, 2]}) == ("a", [1], [1, 2])
    assert first_difference({"a": [1]}, {"a": [1]}) is None


def test_every_shard_is_checked_to_be_the_manifests(store: Store) -> None:
    """The first shard a second time, with a manifest that fits: all checksums hold."""
    one, two = store.manifest.shards[:2]
    (store.root / two.path).write_bytes((store.root / one.path).read_bytes())

    def change(manifest: dict[str, Any]) -> None:
        manifest["shards"][1] = {**manifest["shards"][0], "unit": two.unit, "path": two.path}

    edit_manifest(store, change)
    forged = Store.open(store.root)
    assert len(forged.read_row_group(forged.row_groups[0])) > 0
    for _ in range(2):
        with pytest.raises(IdentityError, match=f"{two.path}, field unit: expected 1; found 0"):
            forged.open_shard(1)


def test_rows_that_were_not_sound_are_refused_again(store: Store) -> None:
    ids = store.targets.num_input_ids
    with store.open_shard(0) as shard:
        cells = shard.read_columns(["input_ids"]).column(0).to_pylist()
    forge_shard(store.root, with_column("input_ids", [[ids] * len(cell) for cell in cells]))
    forged = Store.open(store.root)
    ref = forged.row_groups[0]
    for _ in range(2):
        with pytest.raises(CorruptionError, match=f"ids from 0 to {ids - 1}"):
            forged.read_rows(ref)


def test_rows_that_were_sound_are_not_taken_for_others(store: Store) -> None:
    ref = store.row_groups[0]
    first = store.read_rows(ref)
    path = store.root / store.manifest.shards[0].path
    content = bytearray(path.read_bytes())
    for row, again in zip(first, store.read_rows(ref), strict=True):
        np.testing.assert_array_equal(row.cell("input_ids"), again.cell("input_ids"))
    content[store.manifest.shards[0].row_groups[0].offset + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match=r"unit-000000.parquet, row group 0"):
        store.read_rows(ref)


def test_rows_are_looked_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []
    monkeypatch.setattr(
        "softtargets.store.codec.check_columns", lambda *arguments: looked_at.append(arguments[3])
    )
    for _ in range(2):
        for ref in store.row_groups:
            store.read_rows(ref)
    assert len(looked_at) == len(set(looked_at)) == len(store.row_groups)
