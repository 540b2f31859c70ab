"""The manifest: the committed list of shards, and the identity of what made them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from softtargets.errors import FormatError
from softtargets.limits import Limit
from softtargets.store.foreign_shard_table import SHARD_TABLE_BYTES, decode_shard_table
from softtargets.store.json_object import parse_object
from softtargets.store.layer_file import LAYERS_NAME
from softtargets.store.manifest_identity import checked_identity
from softtargets.store.output_head import OUTPUT_HEAD_NAME
from softtargets.store.shard_checks import check_shards
from softtargets.store.shard_table import ShardTable
from softtargets.store.shard_table_file import ShardTableFile
from softtargets.store.side_file import SideFile, checked_content
from softtargets.store.versions import check_version
from softtargets.store.vocabulary import VOCABULARY_NAME
from softtargets.targets import TargetSchema

MANIFEST_NAME = "manifest.json"
MANIFEST_BYTES = Limit(
    variable="SOFTTARGETS_MAX_MANIFEST_BYTES", default=1 << 28, unit="bytes of a manifest"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a store holds. It is written last: a store without one is not finished."""

    identity: Mapping[str, Any]
    """Everything that decides the content, in the form of the current format version."""
    fingerprint: str
    """Hash of the identity as it was written."""
    format_version: str
    """The version that was written."""
    teacher: str
    """What people call the teacher; what it is stands in the identity."""
    corpus: Mapping[str, int]
    """Counts of what became of the documents."""
    shards: ShardTable
    """In the order of the corpus."""
    shard_table: ShardTableFile | None = None
    """The file that lists them, where the manifest itself does not."""
    created_by: str
    output_head: SideFile | None = None
    """There when the targets have an output head."""
    layers: SideFile | None = None
    """There when the targets have layers to be run again."""
    vocabulary: SideFile | None = None
    """There when the builder had the teacher's tokenizer."""
    rounding: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    """By how much rounded features are off what the teacher gave, see `RoundingError`."""
    drift: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """How far the engine that ran the teacher is from transformers, see `Drift`."""

    @property
    def targets(self) -> TargetSchema:
        """Return what the targets are and how they are encoded."""
        return TargetSchema.from_dict(self.identity["targets"])

    @property
    def side_files(self) -> dict[str, SideFile]:
        """Return the files beside the shards, by name."""
        found = {
            VOCABULARY_NAME: self.vocabulary,
            OUTPUT_HEAD_NAME: self.output_head,
            LAYERS_NAME: self.layers,
        }
        return {name: entry for name, entry in found.items() if entry is not None}

    def to_json(self) -> str:
        """Return the text of the file."""
        data: dict[str, Any] = {
            "format_version": self.format_version,
            "fingerprint": self.fingerprint,
            "created_by": self.created_by,
            "teacher": self.teacher,
            "identity": self.identity,
            "corpus": self.corpus,
        }
        if self.shard_table is None:
            data["shards"] = [shard.to_dict() for shard in self.shards]
        else:
            data["shard_table"] = self.shard_table.to_dict()
        for name in _SIDE_FILES:
            entry = getattr(self, name)
            if entry is not None:
                data[name] = dataclasses.asdict(entry)
        data |= {name: measured for name in _MEASURED if (measured := getattr(self, name))}
        return json.dumps(data, indent=1) + "\n"


_SIDE_FILES = ("output_head", "layers", "vocabulary")
_MEASURED = ("rounding", "drift")


ReadTable = Callable[[ShardTableFile], bytes | None]


def parse_manifest(content: bytes, where: str, read_table: ReadTable | None = None) -> Manifest:
    """Return a manifest, checked with its identity.

    Args:
        content: of the file.
        where: what messages call it.
        read_table: returns the content of the table of shards, or None; its hash is checked here.
            Without it the manifest has to list the shards itself.

    Raises:
        FormatError: it is not JSON, of an unknown version, or does not follow the JSON Schema.
        CorruptionError: its fingerprint is not the hash of its identity, or the table is another.
        LimitError: the table is larger than it is trusted to be.
        StoreError: the table cannot be read.
    """
    data, identity = _checked(content, where)
    table = None
    if "shard_table" in data:
        table = ShardTableFile.from_dict(data["shard_table"])
        shards = _read_shards(table, where, read_table)
    else:
        shards = ShardTable.from_dicts(data["shards"])
        check_shards(shards, f"{where}, field shards")
    side_files = {name: SideFile.from_dict(data[name]) for name in _SIDE_FILES if name in data}
    return Manifest(
        identity=identity,
        fingerprint=data["fingerprint"],
        format_version=data["format_version"],
        teacher=data["teacher"],
        corpus=data["corpus"],
        shards=shards,
        shard_table=table,
        created_by=data["created_by"],
        rounding=data.get("rounding", {}),
        drift=data.get("drift", {}),
        **side_files,
    )


def parse_identity(content: bytes, where: str) -> tuple[Mapping[str, Any], str]:
    """Return the identity in a manifest and its fingerprint.

    Of shards that the manifest lists no more is checked than what the JSON Schema says.

    Raises:
        FormatError: it is not JSON, of an unknown version, or does not follow the JSON Schema.
        CorruptionError: its fingerprint is not the hash of its identity.
    """
    data, identity = _checked(content, where)
    return identity, data["fingerprint"]


def _checked(content: bytes, where: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
    data = parse_object(content, where)
    version = check_version(data.get("format_version"), where)
    return data, checked_identity(data, version, where)


def _read_shards(table: ShardTableFile, where: str, read_table: ReadTable | None) -> ShardTable:
    if read_table is None:
        raise FormatError(
            f"{where}, field shards",
            expected="a list of shards",
            found=f"none, but {table.path} beside the manifest",
        )
    own = f"{where.removesuffix(MANIFEST_NAME)}{table.path}"
    SHARD_TABLE_BYTES.check(own, table.num_bytes)
    content = checked_content(own, read_table(table), table)
    return decode_shard_table(content, table.num_shards, own)
