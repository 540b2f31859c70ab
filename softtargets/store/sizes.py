"""What a store takes on disk: its shards, and the files beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from softtargets.store.card import CARD_NAME
from softtargets.store.manifest import MANIFEST_NAME
from softtargets.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSizes:
    """The bytes of all files of a store."""

    shards: int
    """Grows with the targets."""
    manifest: int
    """Grows with shards and row groups, unless a table lists them."""
    table: Mapping[str, int]
    """By name, the table of shards, if there is one."""
    fixed: Mapping[str, int]
    """By name, what is as large for ten windows as for a million: vocabulary, output head, card."""

    @property
    def total(self) -> int:
        """Return the size of the store."""
        return sum(self.files.values())

    @property
    def files(self) -> dict[str, int]:
        """Return the bytes by file, the shards as one, in the order in which they are named."""
        return {"shards": self.shards, MANIFEST_NAME: self.manifest, **self.table, **self.fixed}


def store_sizes(store: Store) -> StoreSizes:
    """Return the sizes of a store's files; of a view, the shards are what is read in an epoch.

    Raises:
        StoreError: a file is a link, or the place cannot be reached.
    """
    manifest, location = store.manifest, store.location
    fixed = {name: entry.num_bytes for name, entry in manifest.side_files.items()}
    table = manifest.shard_table
    card_bytes = location.size(CARD_NAME)
    if card_bytes is not None:
        fixed[CARD_NAME] = card_bytes
    return StoreSizes(
        shards=store.num_bytes,
        table={} if table is None else {table.path: table.num_bytes},
        manifest=location.size(MANIFEST_NAME) or 0,
        fixed=fixed,
    )
