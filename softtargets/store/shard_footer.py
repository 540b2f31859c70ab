"""What the footer of a shard says of itself, compared with the manifest."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.errors import CorruptionError, IdentityError
from softtargets.store.json_object import parse_object
from softtargets.store.schema import METADATA_KEY, field_of
from softtargets.store.scratch import parquet_errors
from softtargets.store.shard_table import ShardEntry
from softtargets.store.versions import check_version, upgrade_targets
from softtargets.targets import TargetSchema, columns_of


def check_footer(
    footer: pq.FileMetaData, entry: ShardEntry, targets: TargetSchema, fingerprint: str, where: str
) -> None:
    """Check that a footer is that of the shard which the manifest means.

    Raises:
        CorruptionError: it has other columns or row groups.
        FormatError: it is of an unknown version.
        IdentityError: it belongs to another store or unit.
    """
    with parquet_errors(where):
        found_schema = footer.schema.to_arrow_schema()
    metadata = parse_object((found_schema.metadata or {}).get(METADATA_KEY, b"{}"), where)
    version = check_version(metadata.get("format_version"), where)
    metadata["targets"] = upgrade_targets(metadata.get("targets"), version)
    expected = {
        "fingerprint": fingerprint,
        "unit": entry.unit,
        "targets": targets.to_dict(),
    }
    for field, value in expected.items():
        if metadata.get(field) != value:
            raise IdentityError(
                f"{where}, field {field}",
                expected=f"{value!r}",
                found=f"{metadata.get(field)!r}",
                next_step="The shard belongs to another store; restore the right file.",
            )
    _check_columns(found_schema, targets, where)
    found = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
    rows = [group.num_windows for group in entry.row_groups]
    if found != rows:
        raise CorruptionError(
            where,
            expected=f"row groups of {rows} windows",
            found=f"{found}",
        )


def _check_columns(found: pa.Schema, targets: TargetSchema, where: str) -> None:
    for column in columns_of(targets):
        wanted = field_of(column)
        index = found.get_field_index(wanted.name)
        if index < 0 or not found.field(index).equals(wanted):
            raise CorruptionError(
                where,
                expected=f"a column {wanted.name} of {wanted.type}",
                found="none" if index < 0 else f"{found.field(index)}",
            )
