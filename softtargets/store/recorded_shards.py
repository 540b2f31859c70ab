"""The shards of the units that were recorded, as a commit collects them: arrays, in any order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from softtargets.store.rounding import RoundingSums, without_rounding
from softtargets.store.shard_columns import ShardCollector
from softtargets.store.shard_table import ShardEntry, ShardTable


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedShards:
    """What is known of the units of a plan when all, or some, are done."""

    shards: ShardTable
    """Of the units that are done, by rising number."""
    missing: list[int]
    """The units that are not."""
    rounding: Mapping[str, Mapping[str, float]]
    """As the manifest has it."""

    @classmethod
    def of(cls, entries: Iterable[ShardEntry], num_units: int) -> RecordedShards:
        """Collect the entries of units 0 to `num_units`, each of which comes once at most."""
        collector, sums = ShardCollector(), RoundingSums()
        for entry in entries:
            collector.add(without_rounding(entry).to_dict())
            sums.add(entry)
        columns = collector.columns()
        if (np.diff(columns.unit) < 0).any():
            columns = columns.take(np.argsort(columns.unit))
        missing = np.setdiff1d(np.arange(num_units), columns.unit, assume_unique=True)
        return cls(shards=ShardTable(columns), missing=missing.tolist(), rounding=sums.to_dict())
