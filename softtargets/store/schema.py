"""The Arrow schema of a shard, and the versions of the format.

`schemas/FORMAT.md` is the specification; this module is where the code states it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from softtargets.errors import FormatError
from softtargets.packing import DEFAULT_STEP, num_id_planes

FORMAT_VERSION = "1.0"
METADATA_KEY = b"softtargets"

Compression = Literal["zstd", "lz4"]
"""Of the Parquet pages: zstd is smaller, lz4 is read faster; docs/layouts.md has the figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSchema:
    """What a store's targets are and how they are encoded; enough to read every shard of it."""

    kind: Literal["topk"] = "topk"
    """Which entries are kept: the `top_k` highest logits."""
    top_k: int
    temperatures: tuple[float, ...]
    """The grid at which the tail mass is stored."""
    vocab_size: int
    """Width of the teacher's output, padding included."""
    tokenizer_vocab_size: int
    """How many ids the tokenizer knows."""
    values: Literal["steps", "float32"] = "steps"
    """Whether logits are kept in steps (error at most step / 2) or lossless."""
    step: float = DEFAULT_STEP
    """Width of a step in nats; of no meaning with values float32."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**dataclasses.asdict(self), "temperatures": list(self.temperatures)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TargetSchema:
        """Parse the JSON form, already checked against the manifest's JSON Schema."""
        return cls(**{**data, "temperatures": tuple(float(t) for t in data["temperatures"])})

    @property
    def id_columns(self) -> tuple[str, ...]:
        """Return the names of the id planes' columns, lowest byte first."""
        return tuple(f"id_plane_{index}" for index in range(num_id_planes(self.vocab_size)))

    @property
    def tail_columns(self) -> tuple[str, ...]:
        """Return the names of the tail mass columns, in the grid's order."""
        return tuple(
            f"tail_mass_t{temperature:g}".replace(".", "_") for temperature in self.temperatures
        )


def arrow_schema(targets: TargetSchema, fingerprint: str, unit: int) -> pa.Schema:
    """Return the schema of a shard, with the metadata that makes it self-describing."""
    entries = pa.binary(targets.top_k)
    fields: list[tuple[str, pa.DataType]] = [
        ("window_id", pa.string()),
        ("source", pa.string()),
        ("document_ids", list_of(pa.string())),
        ("segment_lengths", list_of(pa.int32())),
        ("offset", pa.int64()),
        ("input_ids", list_of(pa.int32())),
        ("mask", list_of(pa.bool_())),
        *((name, list_of(entries)) for name in targets.id_columns),
        ("num_entries", list_of(pa.int32())),
        ("top_logit", list_of(pa.float32())),
    ]
    if targets.values == "steps":
        halves = pa.binary((targets.top_k + 1) // 2)
        fields += [("steps", list_of(halves)), ("escapes", list_of(pa.int32()))]
    else:
        fields += [("logits", list_of(pa.binary(4 * targets.top_k)))]
    fields += [(name, list_of(pa.float32())) for name in targets.tail_columns]
    fields += [("label_logit", list_of(pa.float32())), ("label_rank", list_of(pa.int32()))]
    metadata = {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "unit": unit,
        "targets": targets.to_dict(),
    }
    return pa.schema(
        [pa.field(name, kind, nullable=False) for name, kind in fields],
        metadata={METADATA_KEY: json.dumps(metadata, sort_keys=True).encode()},
    )


def list_of(element: pa.DataType) -> pa.DataType:
    """Return the type of a list without nulls."""
    return pa.list_(pa.field("element", element, nullable=False))


def check_version(found: object, where: str) -> None:
    """Accept every version with a known major number.

    Raises:
        FormatError: the major number is not 1, or there is none.
    """
    major = FORMAT_VERSION.split(".")[0]
    if not isinstance(found, str) or found.split(".")[0] != major:
        raise FormatError(
            where,
            expected=f"format_version {major}.x",
            found=f"{found!r}",
            next_step="Read it with a release of softtargets that knows this version "
            "(pip install --upgrade softtargets).",
        )
