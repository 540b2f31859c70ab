"""Files of a store beside its shards, each with an entry in the manifest."""

from __future__ import annotations

from softtargets.errors import CorruptionError
from softtargets.store.files import hash_bytes
from softtargets.store.location import Location, check_size
from softtargets.store.manifest import RESTORE, SideFile
from softtargets.store.tree import Tree


def read_side_file(location: Location, name: str, entry: SideFile) -> bytes:
    """Return the content of a store's file, checked to be the one the manifest means.

    Raises:
        CorruptionError: it is missing or another.
        StoreError: the place cannot be reached.
    """
    where = location.where(name)
    check_size(where, entry.num_bytes, location.size(name))
    content = location.read(name, entry.sha256)
    if content is None or hash_bytes(content) != entry.sha256:
        raise CorruptionError(
            where,
            expected=f"{entry.num_bytes:,} bytes with SHA-256 {entry.sha256}",
            found="no file"
            if content is None
            else f"{len(content):,} bytes with {hash_bytes(content)}",
            next_step=RESTORE,
        )
    return content


def commit_side_file(tree: Tree, name: str, content: bytes) -> SideFile:
    """Write a file to its place in the store, and return its entry in the manifest.

    Raises:
        StoreError: the system refused to write.
    """
    tree.write(name, content)
    return SideFile(num_bytes=len(content), sha256=hash_bytes(content))
