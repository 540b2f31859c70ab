"""A store whose manifest leaves the list of its shards to a Parquet file."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from softtargets import Store, verify
from softtargets.capture import build
from softtargets.errors import CorruptionError, FormatError, LimitError, StoreError
from softtargets.hashes import hash_bytes
from softtargets.store.foreign_shard_table import decode_shard_table
from softtargets.store.shard_table import ShardTable
from softtargets.store.shard_table_file import encode_shard_table
from softtargets.store.sizes import store_sizes
from tests.commands import run
from tests.fakes import FakeTeacher, build_config, build_store, shard_bytes
from tests.golden import arrays_of
from tests.places.test_toy_place import InMemory
from tests.store.test_shard_table import ENTRIES
from tests.store.test_sizes import bytes_in
from tests.store.test_unit_records import Conditional

NAME = "shards.parquet"


@pytest.fixture
def _lists_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a table list the shards of every store that is written."""
    monkeypatch.setattr("softtargets.store.shard_table_file.LISTED_SHARDS", 0)


@pytest.fixture
def tabled(tmp_path: Path, _lists_none: None) -> Store:
    """What `store` is, with a table."""
    (tmp_path / "tabled").mkdir()
    return build_store(tmp_path / "tabled")


def manifest_of(store: Store) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((store.root / "manifest.json").read_text())
    return data


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_shards_come_out_of_the_file_as_they_went_in(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softtargets.store.shard_table_file._ROWS", rows)
    content = encode_shard_table(ShardTable.of(ENTRIES))
    assert tuple(decode_shard_table(content, 3, "here")) == ENTRIES


def test_a_store_with_a_table_differs_in_its_list_alone(store: Store, tabled: Store) -> None:
    with_list, with_table = manifest_of(store), manifest_of(tabled)
    del with_list["shards"]
    content = (tabled.root / NAME).read_bytes()
    assert with_table.pop("shard_table") == {
        "path": NAME,
        "num_bytes": len(content),
        "sha256": hash_bytes(content),
        "num_shards": len(store.manifest.shards),
    }
    assert with_table.pop("format_version") == "1.6"
    assert with_list.pop("format_version") == "1.3"
    assert with_table == with_list
    assert shard_bytes(tabled.root) == shard_bytes(store.root)
    assert tabled.manifest.shards == store.manifest.shards
    found, expected = arrays_of(tabled), arrays_of(store)
    assert all((found[name] == expected[name]).all() for name in expected)


def test_a_manifest_lists_the_shards_up_to_a_number(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_shards = len(store.manifest.shards)
    for listed, name in ((num_shards, "all"), (num_shards - 1, "fewer")):
        monkeypatch.setattr("softtargets.store.shard_table_file.LISTED_SHARDS", listed)
        (tmp_path / name).mkdir()
        again = build_store(tmp_path / name)
        assert (again.root / NAME).exists() == (name == "fewer")
        assert ("shard_table" in manifest_of(again)) == (name == "fewer")


def test_a_table_counts_as_a_file_of_the_store(tabled: Store) -> None:
    sizes = store_sizes(tabled)
    assert sizes.files[NAME] == (tabled.root / NAME).stat().st_size
    assert sizes.total == bytes_in(tabled.root)
    assert NAME in run("info", tabled.root).output


def test_a_flipped_byte_of_the_table_is_found(tabled: Store) -> None:
    path = tabled.root / NAME
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for fast in (False, True):
        with pytest.raises(CorruptionError, match=r"shards\.parquet: expected .* with SHA-256"):
            verify(tabled.root, fast=fast)
    # A store that was opened before.
    [problem] = verify(tabled).problems
    assert problem.where == str(path)
    result = run("verify", tabled.root)
    assert result.exit_code == 1
    assert NAME in result.output


@pytest.mark.parametrize("change", [None, lambda content: content + b"more"])
def test_a_table_that_is_gone_or_of_another_size_is_told_of(tabled: Store, change: Any) -> None:
    path = tabled.root / NAME
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CorruptionError, match=r"shards\.parquet: expected [\d,]+ bytes; found"):
        Store.open(tabled.root)
    [problem] = verify(tabled, fast=True).problems
    assert problem.where == str(path)


def test_a_table_larger_than_its_limit_is_not_read(
    tabled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (tabled.root / NAME).stat().st_size
    monkeypatch.setenv("SOFTTARGETS_MAX_SHARD_TABLE_BYTES", str(size - 1))
    (tabled.root / NAME).write_bytes(b"")
    with pytest.raises(LimitError, match=f"found {size:,}"):
        Store.open(tabled.root)


@pytest.mark.usefixtures("_lists_none")
def test_a_crash_between_table_and_manifest_is_gone_on_with(tmp_path: Path, tabled: Store) -> None:
    def refuse(*_: Any) -> None:
        raise StoreError("here", expected="a card", found="a crash", next_step="Go on.")

    config = build_config(tmp_path)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoreError, match="a crash"):
        patch.setattr("softtargets.store.ledger.card_text", refuse)
        build(config, FakeTeacher())
    names = {path.name for path in config.output.iterdir()}
    assert NAME in names and "manifest.json" not in names
    with pytest.raises(StoreError, match="unfinished build"):
        Store.open(config.output)
    again = build(config, FakeTeacher()).store
    for path in ("manifest.json", NAME):
        assert (again.root / path).read_bytes() == (tabled.root / path).read_bytes()
    names = {path.name for path in config.output.iterdir()}
    assert names == {"README.md", "manifest.json", "shards", NAME, "vocabulary.parquet"}


def tables(place: InMemory) -> list[str]:
    return [path for path in place.files if path.startswith("shards-")]


@pytest.mark.usefixtures("_lists_none")
def test_a_commit_that_comes_late_leaves_the_table_that_counts(tmp_path: Path) -> None:
    """The other committer has another pyarrow: its table has other bytes."""
    place, config = Conditional(), build_config(tmp_path)
    put = place.put_if_absent
    late: list[str] = []

    def put_if_absent(path: str, content: bytes) -> bool:
        if path == "manifest.json" and not late:
            late.extend(tables(place))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("softtargets.store.shard_table_file._ROWS", 1)
                other = build(config, FakeTeacher(), place=place).store
                assert other.manifest.shard_table is not None
                late.append(other.manifest.shard_table.path)
        return put(path, content)

    place.put_if_absent = put_if_absent  # type: ignore[method-assign]
    store = build(config, FakeTeacher(), place=place).store
    own, others = late
    assert own != others
    assert store.manifest.shard_table is not None
    assert store.manifest.shard_table.path == others
    assert tables(place) == [others]
    assert verify(store).is_sound
    # One that was thought dead writes its own after that.
    place.put(own, b"another table")
    [problem] = verify(store).problems
    assert problem.where.endswith(own)
    assert "softtargets clean" in problem.found


def test_an_older_release_refuses_the_store(tabled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The schema of 1.5 has no table, and every manifest has to have `shards`."""
    schema = json.loads(files("softtargets.schemas").joinpath("manifest.schema.json").read_text())
    for name in ("if", "then", "else"):
        del schema[name]
    del schema["properties"]["shard_table"]
    schema["required"].append("shards")
    older = jsonschema_rs.Draft202012Validator(schema)
    monkeypatch.setattr("softtargets.store.json_schemas._validator", lambda *_: older)
    monkeypatch.setattr("softtargets.store.versions.FORMAT_VERSION", "1.5")
    with pytest.raises(FormatError, match='"shards" is a required property') as caught:
        Store.open(tabled.root)
    assert "of format 1.6; read it with a newer release" in caught.value.next_step
