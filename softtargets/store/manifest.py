"""The manifest: the committed list of shards, and the identity of what made them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema_rs

from softtargets.errors import CorruptionError, FormatError, InputError
from softtargets.limits import Limit
from softtargets.store.fingerprint import fingerprint_of
from softtargets.store.json_object import parse_object
from softtargets.store.layer_file import LAYERS_NAME
from softtargets.store.output_head import OUTPUT_HEAD_NAME
from softtargets.store.shard_table import ShardTable
from softtargets.store.side_file import SideFile
from softtargets.store.versions import UPGRADE, check_version, is_newer, upgrade_identity
from softtargets.store.vocabulary import VOCABULARY_NAME
from softtargets.targets import TargetSchema
from softtargets.targets.own_part import REGISTERED
from softtargets.targets.target_schema import without_own_parts
from softtargets.texts import shortened

MANIFEST_NAME = "manifest.json"
MANIFEST_BYTES = Limit(
    variable="SOFTTARGETS_MAX_MANIFEST_BYTES", default=1 << 28, unit="bytes of a manifest"
)
WINDOWS = Limit(
    variable="SOFTTARGETS_MAX_ROW_GROUP_WINDOWS", default=1 << 14, unit="windows in a row group"
)
"""A row group is read at once, and a window takes kilobytes however short it is."""
COLUMNS = Limit(
    variable="SOFTTARGETS_MAX_COLUMNS", default=4096, unit="temperatures, features and metadata"
)
_MOST_COUNTED = 2**53 - 1


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
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
        }
        for name in _SIDE_FILES:
            entry = getattr(self, name)
            if entry is not None:
                data[name] = dataclasses.asdict(entry)
        data |= {name: measured for name in _MEASURED if (measured := getattr(self, name))}
        return json.dumps(data, indent=1) + "\n"


_SIDE_FILES = ("output_head", "layers", "vocabulary")
_MEASURED = ("rounding", "drift")


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Return a manifest, checked with its identity.

    Raises:
        FormatError: it is not JSON, of an unknown version, or does not follow the JSON Schema.
        CorruptionError: its fingerprint is not the hash of its identity.
    """
    data = parse_object(content, where)
    version = check_version(data.get("format_version"), where)
    identity = _checked_identity(data, version, where)
    shards = ShardTable(data["shards"])
    _check_shards(shards, where)
    side_files = {name: SideFile.from_dict(data[name]) for name in _SIDE_FILES if name in data}
    return Manifest(
        identity=identity,
        fingerprint=data["fingerprint"],
        format_version=version,
        teacher=data["teacher"],
        corpus=data["corpus"],
        shards=shards,
        created_by=data["created_by"],
        rounding=data.get("rounding", {}),
        drift=data.get("drift", {}),
        **side_files,
    )


def _checked_identity(data: Mapping[str, Any], version: str, where: str) -> Mapping[str, Any]:
    """Return the identity in a manifest, in the current form, and check all but the shards."""
    next_step = ""
    if is_newer(version):
        next_step = (
            f"The store is of format {shortened(version, 20)}; read it with a newer release "
            f"({UPGRADE})."
        )
    check_schema(data, "manifest", where, next_step=next_step)
    identity = upgrade_identity(data["identity"], version)
    check_schema(identity, "identity", where, field="identity", next_step=next_step)
    written = data["identity"].get("format_version")
    if written != version:
        raise FormatError(
            f"{where}, field identity.format_version",
            expected=f"that of the manifest, {shortened(version, 20)}",
            found=shortened(f"{written!r}", 20),
        )
    _check_targets(identity, where, next_step)
    for name, words in (("output_head", "output head"), ("layers", "layers")):
        if (name in identity["targets"]) != (name in data):
            raise FormatError(
                f"{where}, field {name}",
                expected=f"size and hash of the {words} when the targets have one",
                found=f"{data.get(name)}",
                next_step=next_step,
            )
    _check_fingerprint(data, where)
    return identity


def _check_fingerprint(data: Mapping[str, Any], where: str) -> None:
    try:
        fingerprint = fingerprint_of(data["identity"])
    except InputError as error:
        raise FormatError(
            f"{where}, field identity", expected=error.expected, found=error.found
        ) from error
    if fingerprint != data["fingerprint"]:
        raise CorruptionError(
            f"{where}, field fingerprint",
            expected=f"the hash of the identity, {fingerprint}",
            found=data["fingerprint"],
            next_step="The manifest was edited; restore it from a copy, or build the store again.",
        )


def _check_targets(identity: Mapping[str, Any], where: str, next_step: str) -> None:
    """Check what the JSON Schema cannot say: that the parts of the targets fit each other."""
    known = without_own_parts(identity["targets"])
    for field, value in _whole_numbers(known, "identity.targets"):
        if isinstance(value, float):
            raise FormatError(
                f"{where}, field {field}",
                expected="a whole number, written as one",
                found=f"{value!r}",
                next_step=next_step,
            )
    targets = identity["targets"]
    COLUMNS.check(
        f"{where}, field identity.targets",
        sum(len(targets.get(name, ())) for name in ("temperatures", "features", "metadata")),
    )
    try:
        TargetSchema.from_dict(targets)
    except InputError as error:
        raise FormatError(
            f"{where}, field identity.targets",
            expected=error.expected,
            found=error.found,
            next_step=next_step,
        ) from error


_FRACTIONS = {"temperatures", "temperature", "step", "grid_step", "label_step"}
_FRACTIONS |= {"scale", "divisor", "softcap", "epsilon"}


def _whole_numbers(value: Any, field: str) -> Iterator[tuple[str, Any]]:
    """Yield what is in the targets, but for what may have a fraction.

    JSON Schema takes 4.0 for a whole number.
    """
    children = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, child in children:
        if key not in _FRACTIONS and isinstance(child, (Mapping, list)):
            yield from _whole_numbers(child, f"{field}.{key}")
        elif key not in _FRACTIONS:
            yield f"{field}.{key}", child


def _check_shards(shards: ShardTable, where: str) -> None:
    """Check what the JSON Schema cannot say: units in order, ranges that cover their files."""
    WINDOWS.check(f"{where}, the largest row group", shards.most_windows)
    if shards.sum_of_positions > _MOST_COUNTED:
        raise FormatError(
            f"{where}, field shards",
            expected=f"at most {_MOST_COUNTED:,} positions",
            found=f"{shards.sum_of_positions:.3g}",
        )
    place = shards.misplaced()
    if place is not None:
        shard = shards[place]
        covered = sum(group.num_bytes for group in shard.row_groups) + shard.footer_bytes
        raise FormatError(
            f"{where}, field shards.{place}",
            expected=f"unit {place}, with row groups that follow each other, and a footer, that "
            "cover the file",
            found=f"unit {shard.unit}, {covered:,} of {shard.num_bytes:,} bytes in "
            f"{len(shard.row_groups)} row groups and a footer",
        )
    place = shards.crowded()
    if place is not None:
        raise FormatError(
            f"{where}, field shards.{place}",
            expected="row groups that may hold the ids of their windows, of 16 bytes each",
            found=f"{shards[place].num_windows:,} windows in {shards[place].num_bytes:,} bytes",
        )


def check_schema(
    data: object, name: str, where: str, *, field: str = "", next_step: str = ""
) -> None:
    """Check `data`, which is `field` of a file if not all of it, against a JSON Schema by name.

    Raises:
        FormatError: naming the first field that does not fit.
    """
    # Tens of thousands of shards are checked in milliseconds; pure Python would take half a minute.
    # The first error is enough: a list of all takes minutes and gigabytes where there are millions.
    try:
        _validator(name, tuple(REGISTERED)).validate(data)
    except jsonschema_rs.ValidationError as error:
        parts = [*([field] if field else []), *(str(part) for part in error.instance_path)]
        raise FormatError(
            f"{where}, field {shortened('.'.join(parts)) or '(root)'}",
            expected=f"what {name}.schema.json says",
            found=shortened(error.message, 200),
            next_step=next_step,
        ) from None


@cache
def _validator(name: str, own_parts: tuple[str, ...]) -> jsonschema_rs.Draft202012Validator:
    text = files("softtargets.schemas").joinpath(f"{name}.schema.json").read_text()
    schema = json.loads(text)
    if name == "identity":
        targets = schema["$defs"]["targets"]
        targets["properties"] |= {key: {"type": "object"} for key in own_parts}
        targets["anyOf"] += [{"required": [key]} for key in own_parts]
    _close(schema)
    return jsonschema_rs.Draft202012Validator(schema)


def _close(schema: Any) -> None:
    """Let no object have fields that a schema does not know, where all must be understood."""
    if isinstance(schema, dict):
        if schema.get("mustUnderstand") is True:
            schema["additionalProperties"] = False
        for child in schema.values():
            _close(child)
    elif isinstance(schema, list):
        for child in schema:
            _close(child)
