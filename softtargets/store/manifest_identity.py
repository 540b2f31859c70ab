"""The identity in a manifest: what made a store, checked before anything is believed of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from softtargets.errors import CorruptionError, FormatError, InputError
from softtargets.limits import Limit
from softtargets.store.fingerprint import fingerprint_of
from softtargets.store.json_schemas import check_schema
from softtargets.store.versions import UPGRADE, fits_identity, is_newer, upgrade_identity
from softtargets.targets import TargetSchema
from softtargets.targets.target_schema import without_own_parts
from softtargets.texts import shortened

COLUMNS = Limit(
    variable="SOFTTARGETS_MAX_COLUMNS", default=4096, unit="temperatures, features and metadata"
)


def checked_identity(data: Mapping[str, Any], version: str, where: str) -> Mapping[str, Any]:
    """Return the identity in a manifest, in the current form, and check all but the shards."""
    next_step = ""
    if is_newer(version):
        next_step = (
            f"The store is of format {shortened(version, 20)}; read it with a newer release "
            f"({UPGRADE})."
        )
    check_schema(data, "manifest", where, next_step=next_step)
    written = data["identity"].get("format_version")
    if not fits_identity(version, written, has_shard_table="shard_table" in data):
        raise FormatError(
            f"{where}, field identity.format_version",
            expected=f"that of the manifest, {shortened(version, 20)}, or, beside a table of "
            "shards of 1.6 or newer, an older one",
            found=shortened(f"{written!r}", 20),
            next_step=next_step,
        )
    identity = upgrade_identity(data["identity"], written)
    check_schema(identity, "identity", where, field="identity", next_step=next_step)
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
