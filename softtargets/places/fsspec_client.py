"""The client of whatever fsspec opens."""

from __future__ import annotations

import copy

import fsspec
from fsspec.asyn import AsyncFileSystem

from softtargets.places.file_versions import FileVersion


class FsspecClient:
    """A file system of fsspec."""

    def __init__(self, filesystem: fsspec.AbstractFileSystem) -> None:
        self._filesystem = filesystem
        # The others open a file, which would read ahead.
        is_async = isinstance(filesystem, AsyncFileSystem)
        self._options = {} if is_async else {"cache_type": "none"}

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes, or None if there is none."""
        self.forget(path)
        try:
            return int(self._filesystem.size(path))
        except FileNotFoundError:
            return None

    def read(self, path: str) -> bytes:
        """Return all of a file."""
        return bytes(self._filesystem.cat_file(path))

    def read_range(self, path: str, offset: int, num_bytes: int) -> bytes:
        """Return a range of a file; it is shorter where the file ends."""
        stop = offset + num_bytes
        return bytes(self._filesystem.cat_file(path, start=offset, end=stop, **self._options))

    def entries(self, directory: str) -> dict[str, int | None]:
        """Return the sizes of what is in a directory, by name."""
        self.forget(directory)
        try:
            found = self._filesystem.ls(directory, detail=True)
        except FileNotFoundError:
            return {}
        return {
            f"{one['name'].rstrip('/').rpartition('/')[2]}{'/' * (one['type'] == 'directory')}": (
                one["size"]
            )
            for one in found
        }

    def version(self, path: str) -> FileVersion:
        """Return the version of a file, as far as the file system tells of it."""
        self.forget(path)
        found = self._filesystem.info(path)
        return FileVersion.of(found, found["size"])

    def forget(self, path: str) -> None:
        """Forget what directories hold."""
        self._filesystem.invalidate_cache(self._filesystem._parent(path))

    def renewed(self) -> FsspecClient:
        """Return a client with connections and an event loop of its own."""
        return FsspecClient(copy.copy(self._filesystem))
