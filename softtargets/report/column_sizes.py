"""What a store's bytes are spent on, column by column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from softtargets.report.distribution import evenly_spread
from softtargets.store import Store
from softtargets.targets import columns_of

MOST_FOOTERS = 64
"""Of so many shards the footers are read: the shards of a store are alike."""
FOOTERS = "footers"
"""What the bytes that belong to no column are called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSizes:
    """The bytes of the columns of some shards of a store, compressed as they lie there."""

    num_shards: int
    """Whose footers were read, evenly spread over the store."""
    all_shards: int
    num_positions: int
    """Of these shards."""
    columns: dict[str, int]
    """Bytes by the column's name, the largest first; `FOOTERS` for the rest."""
    words: Mapping[str, str]
    """What columns hold, by their names; nothing of one that is not of the format."""

    @property
    def num_bytes(self) -> int:
        """Return the size of these shards."""
        return sum(self.columns.values())

    @property
    def shards_text(self) -> str:
        """Return which shards were looked at, for people."""
        if self.num_shards == self.all_shards:
            return "all shards"
        return f"{self.num_shards:,} of {self.all_shards:,} shards"


def column_sizes(store: Store, most_shards: int = MOST_FOOTERS) -> ColumnSizes:
    """Return the bytes of a store's columns, from the footers of at most so many shards.

    Raises:
        CorruptionError, FormatError or IdentityError: a shard is not what was committed.
    """
    shards = store.manifest.shards
    columns: Counter[str] = Counter()
    chosen = evenly_spread(len(shards), most_shards).tolist()
    for number in chosen:
        with store.open_shard(number) as shard:
            own = shard.column_bytes()
        columns.update(own)
        columns[FOOTERS] += shards[number].num_bytes - sum(own.values())
    return ColumnSizes(
        num_shards=len(chosen),
        all_shards=len(shards),
        num_positions=sum(shards[number].num_positions for number in chosen),
        columns=dict(columns.most_common()),
        words={
            **{column.name: column.words for column in columns_of(store.targets)},
            FOOTERS: "where in the file everything is",
        },
    )
