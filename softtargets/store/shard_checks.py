"""What holds of the shards of a manifest, whether it lists them or a table does."""

from __future__ import annotations

from collections.abc import Iterator

from softtargets.errors import FormatError
from softtargets.limits import Limit
from softtargets.store.shard_table import ShardTable

WINDOWS = Limit(
    variable="SOFTTARGETS_MAX_ROW_GROUP_WINDOWS", default=1 << 14, unit="windows in a row group"
)
"""A row group is read at once, and a window takes kilobytes however short it is."""
MOST_COUNTED = 2**53 - 1


def check_shards(shards: ShardTable, where: str, row_mark: str = ".") -> None:
    """Check what each entry alone cannot say: units in order, ranges that cover their files.

    Args:
        shards: whose entries hold what the JSON Schema says.
        where: the list.
        row_mark: stands between `where` and the number of an entry.

    Raises:
        FormatError: that does not hold.
        LimitError: a row group has more windows than it is trusted with.
    """
    WINDOWS.check(f"{where}, the largest row group", shards.most_windows)
    if shards.sum_of_positions > MOST_COUNTED:
        raise FormatError(
            where,
            expected=f"at most {MOST_COUNTED:,} positions",
            found=f"{shards.sum_of_positions:.3g}",
        )
    for place, expected, found in _faults(shards):
        raise FormatError(f"{where}{row_mark}{place}", expected=expected, found=found)


def _faults(shards: ShardTable) -> Iterator[tuple[int, str, str]]:
    """Yield the first entry of each fault, what was expected of it, and what was found."""
    place = shards.misplaced()
    if place is not None:
        shard = shards[place]
        covered = sum(group.num_bytes for group in shard.row_groups) + shard.footer_bytes
        yield (
            place,
            f"unit {place}, with row groups that follow each other, and a footer, that cover the "
            "file",
            f"unit {shard.unit}, {covered:,} of {shard.num_bytes:,} bytes in "
            f"{len(shard.row_groups)} row groups and a footer",
        )
    place = shards.crowded()
    if place is not None:
        yield (
            place,
            "row groups that may hold the ids of their windows, of 16 bytes each",
            f"{shards[place].num_windows:,} windows in {shards[place].num_bytes:,} bytes",
        )
    place = shards.repeated()
    if place is not None:
        yield place, "a path that no shard before it has", shards[place].path
