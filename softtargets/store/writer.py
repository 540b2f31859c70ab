"""The writing side of a store: windows become shards, which are recorded in a ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from softtargets.store.ledger import Ledger
from softtargets.store.shard import encode_shard
from softtargets.store.shard_table import ShardEntry
from softtargets.window import Window


class StoreWriter(Ledger):
    """The ledger of a store, and its shards. Make it with `StoreWriter.hold`."""

    def write_unit(
        self, unit: int, windows: Sequence[Window], run: Mapping[str, Any]
    ) -> ShardEntry:
        """Write the shard of a unit, then its record; return the entry that counts.

        Raises:
            StoreError: the system refused to write; the units recorded before are still there.
        """
        content, entry = encode_shard(
            windows,
            self.targets,
            self.fingerprint,
            unit,
            compression=self.identity["compression"],
            run=run,
        )
        return self.record(entry, content)
