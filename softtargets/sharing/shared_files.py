"""Which files of a store are shared: those of its manifest; and its card, which is anyone's."""

from __future__ import annotations

from softtargets.store.layer_file import LAYERS_NAME
from softtargets.store.manifest import Manifest
from softtargets.store.output_head import OUTPUT_HEAD_NAME
from softtargets.store.shard_table_file import SHARD_TABLE
from softtargets.store.vocabulary import VOCABULARY_NAME


def file_hashes(manifest: Manifest) -> dict[str, str]:
    """Return the SHA-256 of every file that a manifest names, shards first, by path."""
    hashes, table = manifest.shards.hashes, manifest.shard_table
    hashes |= {} if table is None else {table.path: table.sha256}
    return hashes | {name: entry.sha256 for name, entry in manifest.side_files.items()}


def is_store_file(path: str) -> bool:
    """Return whether a path is one that manifests name."""
    is_shard = path.startswith("shards/") and path.endswith(".parquet")
    is_listed = is_shard or SHARD_TABLE.fullmatch(path) is not None
    return is_listed or path in (OUTPUT_HEAD_NAME, LAYERS_NAME, VOCABULARY_NAME)
