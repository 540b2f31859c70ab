"""A directory of this machine as a place: read and written without following a link."""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager

from softtargets.errors import CorruptionError, StoreError
from softtargets.hashes import hash_bytes
from softtargets.places.local_files import check_root, make_directory
from softtargets.places.lock import hold_lock, read_holder
from softtargets.places.place import Place
from softtargets.places.ranges import PlainFile, RangeFile, wrong_size
from softtargets.places.tree import Tree


class Directory(Tree, Place):
    """A directory of this machine: a tree of files that a store may be in."""

    has_locks = True

    def __str__(self) -> str:
        return str(self.root)

    def list(self, directory: str) -> list[str]:
        """Return the paths of what is in a directory."""
        return [f"{directory}/{name}".lstrip("/") for name in self.names(directory)]

    def sizes(self, directory: str) -> dict[str, int]:
        """Return the sizes of the files in a directory; what is a link has none."""
        found = self.file_sizes(directory)
        return {f"{directory}/{name}".lstrip("/"): size for name, size in found.items()}

    def open_uncached(self, path: str, num_bytes: int, sha256: str | None = None) -> RangeFile:  # noqa: ARG002
        """Open a file to read ranges of it; there is no cache to be past.

        Raises:
            CorruptionError: it is missing, of another size, a link, no file, or cannot be read.
            StoreError: this process has too many files open, or no memory.
        """
        try:
            file = self.open_file(path)
        except StoreError as error:
            raise _as_damage(error) from error
        found = None if file is None else os.fstat(file.fileno()).st_size
        if file is None or found != num_bytes:
            if file is not None:
                file.close()
            raise wrong_size(self.where(path), num_bytes, found)
        return PlainFile(self.where(path), file)

    def check_writable(self) -> None:
        """Check that this is a directory, or nothing yet."""
        check_root(self.root)

    def get_tagged(self, path: str) -> tuple[bytes, str] | None:
        """Return the content of a file and its hash, or None if there is none."""
        content = self.get(path)
        return None if content is None else (content, hash_bytes(content))

    def put_if_match(self, path: str, content: bytes, tag: str) -> bool:
        """Write a file whose content still has this hash; return whether it was written.

        Writers of a directory take turns. `put` does not wait for its turn.

        Raises:
            StoreError: a link or no file is there, or the system refused.
        """
        if self.size(path) is None:
            return False
        with self.alone(path.rpartition("/")[0]):
            found = self.get_tagged(path)
            if found is None or found[1] != tag:
                return False
            self.put(path, content)
            return True

    def make_directory(self, path: str) -> bool:
        """Make a directory, and those that it is in; return whether it was not there.

        Raises:
            InputError: the path of this place was a URL.
            StoreError: a part of the path is a link or no directory, or the system refused.
        """
        if not path:
            is_new = not self.root.exists()
            make_directory(self.root)
            return is_new
        return super().make_directory(path)

    def remove_directory(self, path: str) -> None:
        """Remove a directory that is empty, or do nothing if it is gone already."""
        if path:
            super().remove_directory(path)
        else:
            self.root.rmdir()

    def lock(
        self, path: str, *, shared: bool = False, wait_for: str | None = None
    ) -> AbstractContextManager[object]:
        """Hold a lock on a file, which the system drops when this process dies.

        Raises:
            LockGoneError: its directory is gone.
            BusyError: another process holds it.
            StoreError: it cannot be written, is not ours, or the file system knows no locks.
        """
        return hold_lock(self, path, shared=shared, wait_for=wait_for)

    def lock_holder(self, path: str) -> str:
        """Return who holds a lock, or held it last; nothing if nobody did."""
        return read_holder(self, path)


def _as_damage(error: StoreError) -> StoreError:
    """Return what keeps a shard from being opened as damage of it, unless the process is why."""
    if getattr(error.__cause__, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return error
    return error.restated(CorruptionError)
