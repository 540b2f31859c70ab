"""The versions of the format: which are read, and how older ones become the current one.

`schemas/FORMAT.md` lists them. Upgrading happens while parsing and changes no file; a store keeps
the fingerprint it was written with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from softtargets.errors import FormatError
from softtargets.targets import DEFAULT_CONVENTION, LAST_HIDDEN, TargetSchema
from softtargets.texts import shortened

FORMAT_VERSION = "1.6"
"""The newest that is known here, see `version_of`."""
_WRITTEN = "1.3"
"""The oldest that is still written."""
_ADDED = {
    "1.4": {
        "class_names", "problem", "label_values", "partly_labelled", "token_types", "pad_token_id",
        "output_head.transform", "output_head of tokens",
    },
    "1.5": {"layers", "features of float8"},
}  # fmt: skip
"""What of `_used` later versions have added."""
WRITTEN_VERSIONS = (_WRITTEN, *_ADDED)
"""Of identities."""
_SHARD_TABLE = "1.6"
"""Of a manifest whose shards a table lists. The identity keeps its own version: the number of
shards is no part of it."""
_FIRST_CANONICAL = "3"
"""The minor version since which fingerprints are of canonical JSON."""


def check_version(found: object, where: str) -> str:
    """Return a version whose major number is known.

    Raises:
        FormatError: the major number is not 1, or there is none.
    """
    major = FORMAT_VERSION.split(".")[0]
    if not isinstance(found, str) or found.split(".")[0] != major:
        raise FormatError(
            where,
            expected=f"format_version {major}.x",
            found=shortened(f"{found!r}"),
            next_step=f"Read it with a release of softtargets that knows this version ({UPGRADE}).",
        )
    return found


UPGRADE = "pip install --upgrade softtargets"


def version_of(targets: TargetSchema) -> str:
    """Return the version that a store of such targets is written in: the first that has them all.

    So a store that needs nothing newer keeps its fingerprint and its bytes, and older releases
    read it.
    """
    used = _used(targets)
    return [_WRITTEN, *(one for one, names in _ADDED.items() if names & used)][-1]


def _used(targets: TargetSchema) -> set[str]:
    """Return the fields of targets that are used, and what is used of features and output head."""
    used = set(targets.to_dict()) | {f"features of {one.dtype}" for one in targets.features}
    if targets.output_head is not None:
        if targets.output_head.transform is not None:
            used.add("output_head.transform")
        used |= {
            f"output_head of {one.rows}" for one in targets.features if one.name == LAST_HIDDEN
        }
    return used


def manifest_version(targets: TargetSchema, *, has_shard_table: bool) -> str:
    """Return the version that the manifest of a store is written in."""
    return _SHARD_TABLE if has_shard_table else version_of(targets)


def fits_identity(version: str, written: object, *, has_shard_table: bool) -> bool:
    """Return whether a manifest of a version may have an identity that was written in another."""
    if not has_shard_table:
        return written == version
    is_known = isinstance(written, str) and written.split(".")[0] == version.split(".")[0]
    return is_known and _minor(str(written)) <= _minor(version) >= _minor(_SHARD_TABLE)


def is_newer(version: str) -> bool:
    """Return whether a store of this version may hold what this release does not know."""
    known = FORMAT_VERSION.partition(".")[2]
    return _minor(version) > (len(known), known)


def is_canonical(version: object) -> bool:
    """Return whether the fingerprint of an identity of this version is of canonical JSON."""
    known = (len(_FIRST_CANONICAL), _FIRST_CANONICAL)
    return isinstance(version, str) and _minor(version) >= known


def _minor(version: str) -> tuple[int, str]:
    """Return what orders minor versions; what is no number is the lowest.

    They are compared as texts: a number of thousands of digits is none that Python converts.
    """
    minor = version.partition(".")[2]
    if re.fullmatch("[0-9]+", minor) is None:
        return 0, ""
    digits = minor.lstrip("0")
    return len(digits), digits


def upgrade_identity(identity: Mapping[str, Any], version: str) -> Mapping[str, Any]:
    """Return an identity in the current form; one that is malformed is left for the schema."""
    if version not in ("1.0", "1.1", "1.2"):
        return identity
    targets = identity.get("targets")
    upgraded = {"format_version": _WRITTEN, "targets": upgrade_targets(targets, version)}
    if version == "1.0" and isinstance(targets, Mapping):
        upgraded["selection"] = {"kind": "topk", "k": targets.get("top_k")}
    return {**identity, **upgraded}


def upgrade_targets(targets: Any, version: str) -> Any:
    """Return the description of targets in the current form.

    Version 1.0 knew top-k alone and described it in one flat object.
    """
    if version != "1.0" or not isinstance(targets, Mapping) or targets.get("kind") != "topk":
        return targets
    head = {"max_entries": targets.get("top_k"), "values": targets.get("values")}
    if targets.get("values") == "steps":
        head["step"] = targets.get("step")
    return {
        "vocab_size": targets.get("vocab_size"),
        "tokenizer_vocab_size": targets.get("tokenizer_vocab_size"),
        "temperatures": targets.get("temperatures"),
        "predicts": DEFAULT_CONVENTION.name,
        "positions": "all",
        "head": head,
        "label_logits": True,
    }
