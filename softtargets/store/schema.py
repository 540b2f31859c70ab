"""The columns of a shard as Arrow and Parquet know them.

`schemas/FORMAT.md` is the specification. Which columns there are is said by the parts of a target,
in `softtargets.targets`.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Literal

import pyarrow as pa

from softtargets.store.versions import version_of
from softtargets.targets import Column, EntryPlanes, Grid, TargetSchema, columns_of, part_of
from softtargets.targets.window_columns import WindowColumns

METADATA_KEY = b"softtargets"

Compression = Literal["zstd", "lz4"]
"""Of the Parquet pages: zstd is smaller, lz4 is read faster; docs/layouts.md has the figures."""


def element_of(column: Column) -> pa.DataType:
    """Return the Arrow type of an element: a number, a text, or the bytes of a vector."""
    if column.vector_bytes is not None:
        return pa.binary(column.vector_bytes)
    return pa.string() if column.element == "string" else pa.from_numpy_dtype(column.dtype)


@cache
def field_of(column: Column) -> pa.Field:
    """Return the Arrow field: the element itself, or a list of it; nothing is ever null."""
    element = element_of(column)
    kind = element if column.rows == "window" else list_of(element)
    return pa.field(column.name, kind, nullable=False)


def path_of(column: Column) -> str:
    """Return what a column is called within a Parquet file."""
    return column.name if column.rows == "window" else f"{column.name}.list.element"


def has_shared_texts(column: Column) -> bool:
    """Return whether a column has texts that windows share."""
    return column.element == "string" and column.name != "window_id"


def token_columns(targets: TargetSchema) -> tuple[Column, ...]:
    """Return the columns that say what was scored."""
    part = part_of(targets, WindowColumns)
    assert part is not None
    return tuple(part.columns())


@cache
def id_columns(targets: TargetSchema) -> tuple[str, ...]:
    """Return the names of the id planes' columns, lowest byte first; none without planes."""
    entries = part_of(targets, EntryPlanes)
    return () if entries is None else entries.id_planes


@cache
def grid_columns(targets: TargetSchema) -> tuple[str, ...]:
    """Return what tail masses, or logsumexps without entries, are called, in the grid's order."""
    grid = part_of(targets, Grid)
    assert grid is not None
    return grid.names


def arrow_schema(targets: TargetSchema, fingerprint: str, unit: int) -> pa.Schema:
    """Return the schema of a shard, with the metadata that makes it self-describing."""
    metadata = {
        "format_version": version_of(targets),
        "fingerprint": fingerprint,
        "unit": unit,
        "targets": targets.to_dict(),
    }
    return pa.schema(
        [field_of(column) for column in columns_of(targets)],
        metadata={METADATA_KEY: json.dumps(metadata, sort_keys=True).encode()},
    )


def list_of(element: pa.DataType) -> pa.DataType:
    """Return the type of a list without nulls."""
    return pa.list_(pa.field("element", element, nullable=False))
