"""The columns of a shard.

`schemas/FORMAT.md` is the specification; this module is where the code states it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import pyarrow as pa

from softtargets.kinds import TargetSchema, feature_columns, temperature_text
from softtargets.packing.head import num_id_planes
from softtargets.store.versions import FORMAT_VERSION

METADATA_KEY = b"softtargets"
METADATA_PREFIX = "metadata_"
"""What the names of columns with the documents' metadata begin with."""

Compression = Literal["zstd", "lz4"]
"""Of the Parquet pages: zstd is smaller, lz4 is read faster; docs/layouts.md has the figures."""

Rows = Literal["window", "tokens", "targets", "classes", "single", "any"]
"""How many elements a cell has: a scalar for the window; one for each token, for each target, for
each class of each target; a list of one; a number of its own."""


@dataclass(frozen=True)
class Column:
    """One column of a shard."""

    name: str
    element: pa.DataType
    rows: Rows

    @cached_property
    def field(self) -> pa.Field:
        """Return the Arrow field: the element itself, or a list of it; nothing is ever null."""
        kind = self.element if self.rows == "window" else list_of(self.element)
        return pa.field(self.name, kind, nullable=False)

    @property
    def path(self) -> str:
        """Return what the column is called within a Parquet file."""
        return self.name if self.rows == "window" else f"{self.name}.list.element"

    @property
    def has_shared_texts(self) -> bool:
        """Return whether it has texts that windows share."""
        return self.element == pa.string() and self.name != "window_id"


@cache
def columns_of(targets: TargetSchema) -> tuple[Column, ...]:
    """Return the columns of a shard, in their order."""
    return (*token_columns(targets), *_target_columns(targets))


def token_columns(targets: TargetSchema) -> Iterator[Column]:
    """Yield the columns that say what was scored."""
    yield Column("window_id", pa.string(), "window")
    yield Column("source", pa.string(), "window")
    yield Column("document_ids", pa.string(), "any")
    for name in targets.metadata:
        yield Column(METADATA_PREFIX + name, pa.string(), "any")
    yield Column("segment_lengths", pa.int32(), "any")
    yield Column("offset", pa.int64(), "window")
    yield Column("input_ids", pa.int32(), "tokens")
    yield Column("mask", pa.bool_(), "targets")
    if targets.positions == "listed":
        yield Column("target_positions", pa.int32(), "targets")
    if targets.label_ids:
        yield Column("label_ids", pa.int32(), "targets")
    if targets.encoder_input:
        yield Column("encoder_input_ids", pa.int32(), "any")


def _target_columns(targets: TargetSchema) -> Iterator[Column]:
    head, samples = targets.head, targets.samples
    if head is not None:
        for name in id_columns(targets):
            yield Column(name, pa.binary(head.max_entries), "targets")
        yield Column("num_entries", pa.int32(), "targets")
    if targets.has_top_logit:
        yield Column("top_logit", pa.float32(), "targets")
    if head is not None and head.values == "steps":
        yield Column("steps", pa.binary((head.max_entries + 1) // 2), "targets")
        yield Column("escapes", pa.int32(), "any")
    elif head is not None:
        yield Column("logits", pa.binary(4 * head.max_entries), "targets")
    if samples is not None:
        yield Column("num_repeated", pa.int32(), "targets")
        yield Column("repeated_counts", pa.int32(), "any")
        yield Column("sample_gaps", pa.int32(), "any")
        if samples.values == "steps":
            yield Column("sample_steps", pa.int32(), "any")
        elif samples.values == "float32":
            yield Column("sample_logits", pa.float32(), "any")
    for name in grid_columns(targets):
        yield Column(name, pa.float32(), "targets")
    if targets.label_logits:
        yield Column("label_logit", pa.float32(), "targets")
        yield Column("label_rank", pa.int32(), "targets")
    if targets.num_classes:
        yield Column("class_logits", pa.float32(), "classes")
    for feature in targets.features:
        rows: Rows = "single" if feature.rows == "window" else feature.rows
        names = feature_columns(feature)
        yield Column(names[0], pa.binary(feature.vector_bytes), rows)
        for name in names[1:]:
            yield Column(name, pa.float32(), rows)


@cache
def id_columns(targets: TargetSchema) -> tuple[str, ...]:
    """Return the names of the id planes' columns, lowest byte first."""
    return tuple(f"id_plane_{index}" for index in range(num_id_planes(targets.vocab_size)))


@cache
def grid_columns(targets: TargetSchema) -> tuple[str, ...]:
    """Return the columns of tail masses, or of logsumexps without a head, in the grid's order."""
    what = "logsumexp" if targets.head is None else "tail_mass"
    return tuple(f"{what}_t{temperature_text(one)}" for one in targets.temperatures)


def arrow_schema(targets: TargetSchema, fingerprint: str, unit: int) -> pa.Schema:
    """Return the schema of a shard, with the metadata that makes it self-describing."""
    metadata = {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "unit": unit,
        "targets": targets.to_dict(),
    }
    return pa.schema(
        [column.field for column in columns_of(targets)],
        metadata={METADATA_KEY: json.dumps(metadata, sort_keys=True).encode()},
    )


def list_of(element: pa.DataType) -> pa.DataType:
    """Return the type of a list without nulls."""
    return pa.list_(pa.field("element", element, nullable=False))
