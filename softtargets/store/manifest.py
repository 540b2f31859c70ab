"""The manifest: the committed list of shards, and the identity of what made them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs

from softtargets.errors import CorruptionError, FormatError, IdentityError, InputError
from softtargets.kinds import TargetSchema
from softtargets.store.shard_table import ShardTable
from softtargets.store.versions import (
    UPGRADE,
    check_version,
    is_newer,
    upgrade_identity,
)

MANIFEST_NAME = "manifest.json"
RESTORE = "Restore the file from a copy, or build the store again."


@dataclass(frozen=True, slots=True, kw_only=True)
class SideFile:
    """A file beside the shards: the teacher's output head, or its vocabulary."""

    num_bytes: int
    sha256: str
    """Of the file; what the identity has is a hash of the content, whoever wrote it."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SideFile:
        """Parse the JSON form; fields of a later release are left out."""
        return cls(num_bytes=data["num_bytes"], sha256=data["sha256"])


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
    vocabulary: SideFile | None = None
    """There when the builder had the teacher's tokenizer."""

    @property
    def targets(self) -> TargetSchema:
        """Return what the targets are and how they are encoded."""
        return TargetSchema.from_dict(self.identity["targets"])

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
        return json.dumps(data, indent=1) + "\n"


_SIDE_FILES = ("output_head", "vocabulary")


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the identity's canonical JSON, in hexadecimal."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def read_manifest(path: Path) -> Manifest:
    """Read and check the manifest of a local store, as `parse_manifest` does."""
    return parse_manifest(path.read_bytes(), str(path))


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Return a manifest, checked with its identity.

    Raises:
        FormatError: it is not JSON, of an unknown version, or does not follow the JSON Schema.
        CorruptionError: its fingerprint is not the hash of its identity.
    """
    data = parse_json(content, where)
    version = check_version(data.get("format_version"), where)
    next_step = RESTORE
    if is_newer(version):
        next_step = f"The store is of format {version}; read it with a newer release ({UPGRADE})."
    check_schema(data, "manifest", where, next_step=next_step)
    identity = upgrade_identity(data["identity"], version)
    check_schema(identity, "identity", where, field="identity", next_step=next_step)
    _check_targets(identity, where, next_step)
    if ("output_head" in identity["targets"]) != ("output_head" in data):
        raise FormatError(
            f"{where}, field output_head",
            expected="size and hash of the output head when the targets have one",
            found=f"{data.get('output_head')}",
            next_step=next_step,
        )
    if fingerprint_of(data["identity"]) != data["fingerprint"]:
        raise CorruptionError(
            f"{where}, field fingerprint",
            expected=f"the hash of the identity, {fingerprint_of(data['identity'])}",
            found=data["fingerprint"],
            next_step="The manifest was edited; restore it from a copy, or build the store again.",
        )
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
        **side_files,
    )


def _check_targets(identity: Mapping[str, Any], where: str, next_step: str) -> None:
    """Check what the JSON Schema cannot say: that the parts of the targets fit each other."""
    try:
        TargetSchema.from_dict(identity["targets"])
    except InputError as error:
        raise FormatError(
            f"{where}, field identity.targets",
            expected=error.expected,
            found=error.found,
            next_step=next_step,
        ) from error


def _check_shards(shards: ShardTable, where: str) -> None:
    """Check what the JSON Schema cannot say: units in order, ranges that cover their files."""
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
            next_step=RESTORE,
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FormatError: the file holds something else.
    """
    return parse_json(path.read_bytes(), str(path))


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        FormatError: it is something else.
    """
    try:
        data = json.loads(content)
    except ValueError as error:
        raise _not_an_object(where, str(error)) from error
    if not isinstance(data, dict):
        raise _not_an_object(where, type(data).__name__)
    return data


def _not_an_object(where: str, found: str) -> FormatError:
    return FormatError(
        where,
        expected="a JSON object",
        found=found,
        next_step="Restore the file from a copy, or build the store again in a new directory.",
    )


def check_schema(
    data: object, name: str, where: str, *, field: str = "", next_step: str = RESTORE
) -> None:
    """Check `data`, which is `field` of a file if not all of it, against a JSON Schema by name.

    Raises:
        FormatError: naming the first field that does not fit.
    """
    # Tens of thousands of shards are checked in milliseconds; pure Python would take half a minute.
    errors = [] if _validator(name).is_valid(data) else list(_validator(name).iter_errors(data))
    if errors:
        error = min(errors, key=lambda error: len(error.instance_path))
        parts = [*([field] if field else []), *(str(part) for part in error.instance_path)]
        raise FormatError(
            f"{where}, field {'.'.join(parts) or '(root)'}",
            expected=f"what {name}.schema.json says",
            found=error.message[:200],
            next_step=next_step,
        )


@cache
def _validator(name: str) -> jsonschema_rs.Draft202012Validator:
    text = files("softtargets.schemas").joinpath(f"{name}.schema.json").read_text()
    return jsonschema_rs.Draft202012Validator(json.loads(text))


def check_identity(
    expected: Mapping[str, Any], found: Mapping[str, Any], where: str, next_step: str
) -> None:
    """Check that two identities are the same.

    Raises:
        IdentityError: naming the first field that differs.
    """
    difference = first_difference(expected, found)
    if difference is not None:
        field, wanted, there = difference
        raise IdentityError(
            f"{where}, field {field}",
            expected=f"{wanted!r}",
            found=f"{there!r}",
            next_step=next_step,
        )


def first_difference(left: Any, right: Any, field: str = "") -> tuple[str, Any, Any] | None:
    """Return (field, left value, right value) of the first difference between two JSON values."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        # A field that both have says more than one that is missing.
        for key in sorted(
            {*left, *right}, key=lambda key: (key not in left or key not in right, key)
        ):
            inner = first_difference(
                left.get(key), right.get(key), f"{field}.{key}" if field else str(key)
            )
            if inner is not None:
                return inner
        return None
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            inner = first_difference(one, other, f"{field}[{index}]")
            if inner is not None:
                return inner
        return None
    return None if left == right else (field, left, right)
