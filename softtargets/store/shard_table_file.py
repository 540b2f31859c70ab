"""The list of shards as a Parquet file: what a manifest has of a store with very many of them.

    shards.parquet         in a directory
    shards-HASH.parquet    in an object store; HASH is the first 16 digits of its SHA-256

It has a row for each shard, in the order of the corpus, with what an entry of `shards` in the
manifest has. The manifest is written after it and has its size and its hash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.hashes import hash_bytes
from softtargets.places.place import Place
from softtargets.store.shard_columns import (
    GROUP_NUMBERS,
    SHA256_BYTES,
    XXH3_BYTES,
    Digests,
    ShardColumns,
)
from softtargets.store.shard_table import ShardTable
from softtargets.store.side_file import SideFile

LISTED_SHARDS = 10_000
"""A manifest lists the shards itself up to so many: some 5 MB."""
SHARD_TABLE = re.compile(r"shards(-[0-9a-f]{16})?\.parquet")
"""What the file may be called."""
TABLE_BY_CONTENT = re.compile(r"shards-[0-9a-f]{16}\.parquet")
"""What it is called in an object store."""
GROUPS = "row_groups"
GROUP_TYPES = {
    **dict.fromkeys(GROUP_NUMBERS, pa.int64()),
    "xxh3": pa.binary(XXH3_BYTES),
}
SHARD_TYPES = {
    "unit": pa.int64(),
    "path": pa.string(),
    "num_bytes": pa.int64(),
    "sha256": pa.binary(SHA256_BYTES),
    "footer_bytes": pa.int64(),
    "footer_xxh3": pa.binary(XXH3_BYTES),
    "run": pa.string(),
}
"""The columns but for the row groups."""
_ROWS = 1 << 16
"""Of a row group: what is read of the file at a time."""
_ELEMENT = f"{GROUPS}.list.element"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTableFile(SideFile):
    """The entry of the file in the manifest."""

    path: str
    num_shards: int

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ShardTableFile:
        """Parse the JSON form; fields of a later release are left out."""
        return cls(
            path=data["path"],
            num_bytes=data["num_bytes"],
            sha256=data["sha256"],
            num_shards=data["num_shards"],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "path": self.path,
            "num_bytes": self.num_bytes,
            "sha256": self.sha256,
            "num_shards": self.num_shards,
        }


def commit_shard_table(place: Place, shards: ShardTable) -> ShardTableFile | None:
    """Write the file to its place in the store, and return its entry in the manifest.

    Returns None, and writes nothing, where the manifest is to list the shards itself.

    Raises:
        StoreError: the system refused to write.
    """
    if len(shards) <= LISTED_SHARDS:
        return None
    content = encode_shard_table(shards)
    sha256 = hash_bytes(content)
    # Without locks another process may commit at the same time, with another pyarrow.
    path = f"shards{'' if place.has_locks else f'-{sha256[:16]}'}.parquet"
    place.put(path, content)
    return ShardTableFile(path=path, num_bytes=len(content), sha256=sha256, num_shards=len(shards))


def other_tables(place: Place, table: ShardTableFile) -> list[str]:
    """Return the paths of tables of processes whose manifest came too late, or never.

    Raises:
        StoreError: the place cannot be reached.
    """
    paths = place.list("")
    return [path for path in paths if TABLE_BY_CONTENT.fullmatch(path) and path != table.path]


def encode_shard_table(shards: ShardTable) -> bytes:
    """Return the Parquet file of some shards.

    The bytes are a pure function of the argument and the version of pyarrow.
    """
    table = _arrow_table(shards.columns)
    numbers = [name for name, own in SHARD_TYPES.items() if own == pa.int64()]
    numbers += [f"{_ELEMENT}.{name}" for name in GROUP_NUMBERS]
    hashes = {"sha256", "footer_xxh3", f"{_ELEMENT}.xxh3"}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        # Nothing makes hashes smaller.
        compression=dict.fromkeys(hashes, "none")
        | dict.fromkeys([*numbers, "path", "run"], "zstd"),
        use_dictionary=["run"],
        column_encoding=dict.fromkeys(numbers, "DELTA_BINARY_PACKED"),
        write_statistics=["unit"],
        write_page_checksum=True,
        store_schema=False,
        row_group_size=_ROWS,
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _arrow_table(columns: ShardColumns) -> pa.Table:
    fields = [pa.field(name, own, nullable=False) for name, own in GROUP_TYPES.items()]
    values = [pa.array(columns.groups[name]) for name in GROUP_NUMBERS]
    groups = pa.StructArray.from_arrays([*values, _binary(columns.group_xxh3)], fields=fields)
    element = pa.field("element", groups.type, nullable=False)
    offsets = pa.array(columns.first_groups.astype(np.int32))
    arrays: dict[str, pa.Array] = {
        "unit": pa.array(columns.unit),
        "path": columns.path,
        "num_bytes": pa.array(columns.num_bytes),
        "sha256": _binary(columns.sha256),
        "footer_bytes": pa.array(columns.footer_bytes),
        "footer_xxh3": _binary(columns.footer_xxh3),
        "run": columns.run,
        GROUPS: pa.ListArray.from_arrays(offsets, groups, type=pa.list_(element)),
    }
    schema = [pa.field(name, own.type, nullable=False) for name, own in arrays.items()]
    return pa.table(list(arrays.values()), schema=pa.schema(schema))


def _binary(digests: Digests) -> pa.FixedSizeBinaryArray:
    buffers = [None, pa.py_buffer(np.ascontiguousarray(digests))]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(digests.shape[1]), len(digests), buffers)
