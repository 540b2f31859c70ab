"""Tables of shards that someone made by hand: their hash holds, and what they say cannot be."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softtargets.errors import CorruptionError, FormatError, LimitError, SoftTargetsError
from softtargets.hashes import hash_bytes
from softtargets.store import Store
from softtargets.store.foreign_shard_table import decode_shard_table
from tests.forgery import forge_manifest
from tests.golden import GOLDEN

GOLDEN_TABLE = GOLDEN / "shard-table-1.6" / "store" / "shards.parquet"
NUM_SHARDS = 3
TABLE = pq.read_table(GOLDEN_TABLE)
Rows = list[dict[str, Any]]


def copied(directory: Path) -> Path:
    return Path(shutil.copytree(GOLDEN_TABLE.parent, directory / "store"))


def decode(content: bytes, num_shards: int = NUM_SHARDS) -> None:
    decode_shard_table(content, num_shards, "here")


def written(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def with_row(row: int = 1, group: Mapping[str, Any] | None = None, **changes: Any) -> bytes:
    """Return a table with other values in a row, or in its first row group."""
    rows: Rows = TABLE.to_pylist()
    rows[row] |= changes
    if group is not None:
        rows[row]["row_groups"][0] |= group
    return written(pa.Table.from_pylist(rows, schema=TABLE.schema))


def nullable(schema: pa.Schema) -> pa.Schema:
    element = pa.struct(
        [(one.name, one.type) for one in schema.field("row_groups").type.value_type]
    )
    types = {one.name: one.type for one in schema} | {"row_groups": pa.list_(element)}
    return pa.schema(list(types.items()))


def test_what_others_write_is_read_if_it_is_right() -> None:
    """Other codecs and encodings, columns of a later release, nullable columns without a null."""
    rows: Rows = [one | {"mirror": "later"} for one in TABLE.to_pylist()]
    schema = nullable(TABLE.schema).append(pa.field("mirror", pa.string()))
    table = pa.Table.from_pylist(rows, schema=schema)
    for options in ({"compression": "snappy"}, {"row_group_size": 1, "use_dictionary": False}):
        decode(written(table, **options))


PATH = "shards/unit-000001.parquet"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"path": "shards/../secret.parquet"}, "column path, row 1"),
        ({"path": "/shards/unit.parquet"}, "column path, row 1"),
        ({"path": "shards/a/b.parquet"}, "column path, row 1"),
        ({"path": "shards/b.parquet\n"}, "column path, row 1"),
        ({"path": "\nshards/b.parquet"}, "column path, row 1"),
        ({"path": "shards/Stra\u00dfe.parquet"}, "column path, row 1"),
        ({"path": f"shards/{'a' * 241}.parquet"}, "column path, value 1"),
        ({"path": ""}, "column path, value 1"),
        ({"path": "shards/unit-000000.parquet"}, "row 1"),
        ({"unit": 2}, "row 1"),
        ({"unit": -1}, "column unit, value 1"),
        ({"num_bytes": 0}, "column num_bytes, value 1"),
        ({"num_bytes": 2**53}, "column num_bytes, value 1"),
        ({"num_bytes": 10**6}, "row 1"),
        ({"footer_bytes": 0}, "column footer_bytes, value 1"),
        ({"footer_bytes": 2**28 + 1}, "column footer_bytes, value 1"),
        ({"run": "[]"}, "column run"),
        ({"run": '{"a": NaN}'}, "column run"),
        ({"run": '{"a": 1, "a": 2}'}, "column run"),
        ({"row_groups": []}, "column row_groups, value 1"),
        ({"group": {"num_windows": 0}}, "column row_groups.num_windows, value 1"),
        ({"group": {"num_positions": 0}}, "column row_groups.num_positions, value 1"),
        ({"group": {"num_positions": -(2**63)}}, "column row_groups.num_positions, value 1"),
        ({"group": {"offset": -1}}, "column row_groups.offset, value 1"),
        ({"group": {"offset": 1}}, "row 1"),
        ({"group": {"num_bytes": 2**34 + 1}}, "column row_groups.num_bytes, value 1"),
        ({"group": {"num_windows": 10**4}}, "row 1"),
    ],
)
def test_a_value_that_cannot_be_is_refused(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(FormatError) as caught:
        decode(with_row(**changes))
    assert caught.value.where == f"here, {where}"


def test_more_windows_than_a_row_group_is_trusted_with_are_refused() -> None:
    with pytest.raises(LimitError, match="SOFTTARGETS_MAX_ROW_GROUP_WINDOWS"):
        decode(with_row(group={"num_windows": 2**40}))


def changed(name: str, kind: pa.DataType) -> bytes:
    """Return a table with another type of a column, or of a number of row groups."""
    schema = nullable(TABLE.schema)
    rows: Rows = TABLE.to_pylist()
    column, _, child = name.partition(".")
    index = schema.get_field_index(column)
    if child:
        fields = {one.name: one.type for one in schema.field(column).type.value_type}
        kind = pa.list_(pa.struct(list((fields | {child: kind}).items())))
    schema = schema.set(index, pa.field(column, kind))
    return written(pa.Table.from_pylist(rows, schema=schema))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("unit", pa.int32()),
        ("num_bytes", pa.float64()),
        ("path", pa.binary()),
        ("path", pa.large_string()),
        ("sha256", pa.binary()),
        ("run", pa.binary()),
        ("row_groups.offset", pa.int32()),
        ("row_groups.num_bytes", pa.float64()),
        ("row_groups.xxh3", pa.binary()),
    ],
)
def test_a_column_of_another_type_is_refused(name: str, kind: pa.DataType) -> None:
    with pytest.raises(CorruptionError, match=rf"found column {name} of "):
        decode(changed(name, kind))


@pytest.mark.parametrize("name", TABLE.column_names)
def test_a_column_that_is_missing_or_null_is_refused(name: str) -> None:
    with pytest.raises(CorruptionError, match=name):
        decode(written(TABLE.drop_columns([name])))
    rows: Rows = TABLE.to_pylist()
    rows[2][name] = None
    with pytest.raises(CorruptionError, match=f"nulls in column {name}"):
        decode(written(pa.Table.from_pylist(rows, schema=nullable(TABLE.schema))))


@pytest.mark.parametrize("name", [None, "num_windows", "offset", "xxh3"])
def test_a_null_in_a_row_group_is_refused(name: str | None) -> None:
    rows: Rows = TABLE.to_pylist()
    if name is None:
        rows[1]["row_groups"][1] = None
    else:
        rows[1]["row_groups"][1][name] = None
    with pytest.raises(CorruptionError, match="nulls in column row_groups"):
        decode(written(pa.Table.from_pylist(rows, schema=nullable(TABLE.schema))))


@pytest.mark.parametrize("num_shards", [2, 4, 2**53 - 1])
def test_another_number_of_shards_is_refused(num_shards: int) -> None:
    with pytest.raises(CorruptionError, match=f"with {num_shards:,} shards.*found 3 rows"):
        decode(GOLDEN_TABLE.read_bytes(), num_shards)


def bomb(num_shards: int) -> bytes:
    """Return a table of equal rows, which takes a few bytes for each thousand of them."""
    one = TABLE.slice(0, 1).replace_schema_metadata(None)
    table = pa.concat_tables([one.take([0] * 1000)] * (num_shards // 1000))
    return written(table.combine_chunks(), compression="zstd", row_group_size=1 << 20)


def test_what_unpacks_to_more_than_the_limit_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    content = bomb(10_000)
    monkeypatch.setenv("SOFTTARGETS_MAX_SHARD_TABLE_BYTES", str(1 << 20))
    assert len(content) < 1 << 16

    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read)
    with pytest.raises(LimitError, match="SOFTTARGETS_MAX_SHARD_TABLE_BYTES"):
        decode(content, 10_000)


def test_a_run_of_too_many_objects_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    content = with_row(run=f'{{"a": [{"[]," * 50_000} []]}}')
    decode(content)
    monkeypatch.setenv("SOFTTARGETS_MAX_SHARD_TABLE_BYTES", str(8 << 20))
    with pytest.raises(LimitError, match="column run"):
        decode(content)


def test_flipped_bytes_end_in_an_error_or_the_same_shards() -> None:
    content, rng = GOLDEN_TABLE.read_bytes(), np.random.default_rng(0)
    expected = decode_shard_table(content, NUM_SHARDS, "here")
    for place in rng.integers(0, len(content), 60).tolist():
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        try:
            found = decode_shard_table(bytes(flipped), NUM_SHARDS, "here")
        except SoftTargetsError as error:
            assert len(str(error)) < 1500
        else:
            # In what nobody reads, or in the footer, which no checksum of its own covers.
            assert len(found) == len(expected)


Forge = Callable[[bytes], bytes]


@pytest.mark.parametrize("forge", [lambda _: with_row(path=PATH + "s"), lambda _: b"PAR1" * 4])
def test_a_forged_table_is_named_as_a_store_is_opened(forge: Forge, tmp_path: Path) -> None:
    root = copied(tmp_path)
    content = forge((root / "shards.parquet").read_bytes())
    (root / "shards.parquet").write_bytes(content)

    def change(manifest: dict[str, Any]) -> None:
        own = {"num_bytes": len(content), "sha256": hash_bytes(content)}
        manifest["shard_table"] |= own

    forge_manifest(root, change)
    with pytest.raises(SoftTargetsError) as caught:
        Store.open(root)
    assert caught.value.where.startswith(str(root / "shards.parquet"))


@pytest.mark.parametrize("version", ["1.3", "1.5"])
def test_a_table_beside_an_older_version_is_refused(version: str, tmp_path: Path) -> None:
    root = copied(tmp_path)
    forge_manifest(root, lambda manifest: manifest.update(format_version=version))
    with pytest.raises(FormatError, match="beside a table of shards"):
        Store.open(root)


def test_an_identity_that_is_newer_than_its_manifest_is_refused(tmp_path: Path) -> None:
    root = copied(tmp_path)
    forge_manifest(root, lambda manifest: manifest["identity"].update(format_version="1.7"))
    with pytest.raises(FormatError, match=r"identity\.format_version"):
        Store.open(root)
