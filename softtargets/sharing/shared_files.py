"""Which files of a store are shared: those of its manifest; and its card, which is anyone's."""

from __future__ import annotations

from softtargets.store.layer_file import LAYERS_NAME
from softtargets.store.manifest import Manifest
from softtargets.store.output_head import OUTPUT_HEAD_NAME
from softtargets.store.vocabulary import VOCABULARY_NAME


def file_hashes(manifest: Manifest) -> dict[str, str]:
    """Return the SHA-256 of every file that a manifest lists, shards first, by path."""
    hashes = manifest.shards.hashes
    return hashes | {name: entry.sha256 for name, entry in manifest.side_files.items()}


def is_store_file(path: str) -> bool:
    """Return whether a path is one that manifests list."""
    is_shard = path.startswith("shards/") and path.endswith(".parquet")
    return is_shard or path in (OUTPUT_HEAD_NAME, LAYERS_NAME, VOCABULARY_NAME)
