"""The files below a directory, read and written without ever following a link."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedReader, FileIO
from typing import TypeVar
from uuid import uuid4

from softtargets.places.no_links import OF_ENTRY, PathOpener

TEMPORARY = r"\.[0-9a-f]{32}\.tmp"
"""How the name of what is being written ends; nobody else gives such names."""

Found = TypeVar("Found")


class Tree(PathOpener):
    """The files below a directory. Paths are relative to it, with forward slashes."""

    def open_file(self, path: str) -> BufferedReader | None:
        """Open a file for reading; return None if there is none.

        Raises:
            StoreError: it is a link, no file, or cannot be read.
        """
        with self._errors(path, "cannot be read"):
            try:
                with self._parent(path) as (parent, name):
                    return os.fdopen(self._open(path, parent, name, os.O_RDONLY), "rb")
            except FileNotFoundError:
                return None

    def open_lock(self, path: str) -> FileIO | None:
        """Open a file for reading and writing, made if need be; None if its directory is gone.

        Raises:
            StoreError: it is a link, no file, or cannot be written.
        """
        with self._errors(path, "cannot be written"):
            try:
                with self._parent(path) as (parent, name):
                    flags = os.O_RDWR | os.O_CREAT
                    return os.fdopen(self._open(path, parent, name, flags), "r+b", buffering=0)
            except FileNotFoundError:
                return None

    def is_same(self, path: str, descriptor: int) -> bool:
        """Return whether a file that was opened is still the one of this path."""
        found = self._status(path)
        return found is not None and os.path.samestat(found, os.fstat(descriptor))

    def get(self, path: str, sha256: str | None = None) -> bytes | None:  # noqa: ARG002
        """Return the content of a file, or None if there is none; it is not fetched again.

        Raises:
            StoreError: it is a link, no file, or cannot be read.
        """
        file = self.open_file(path)
        if file is None:
            return None
        with file, self._errors(path, "cannot be read"):
            return file.read()

    def hash(self, path: str) -> str | None:
        """Return the SHA-256 of a file in hexadecimal, or None if there is none.

        Raises:
            StoreError: it is a link, no file, or cannot be read.
        """
        file = self.open_file(path)
        if file is None:
            return None
        with file, self._errors(path, "cannot be read"):
            return hashlib.file_digest(file, "sha256").hexdigest()

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes, or None if there is none.

        Raises:
            StoreError: it is a link, no file, or cannot be reached.
        """
        found = self._status(path)
        if found is not None:
            self._check_file(path, found)
        return None if found is None else found.st_size

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory, sorted; none if there is no such directory.

        The name of a directory within it ends with a slash.

        Raises:
            StoreError: it is a link, no directory, or cannot be read.
        """
        return sorted(self._scan(directory, lambda found: [_marked(entry) for entry in found]))

    def file_sizes(self, directory: str) -> dict[str, int]:
        """Return the sizes of the files in a directory by name, without those of links.

        Raises:
            StoreError: it is a link, no directory, or cannot be read.
        """
        return dict(self._scan(directory, lambda found: [*_sizes(found)]))

    def _scan(
        self, directory: str, read: Callable[[Iterator[os.DirEntry[str]]], list[Found]]
    ) -> list[Found]:
        """Return what is read of the entries of a directory; nothing if there is none."""
        with self._errors(directory, "cannot be read"):
            try:
                with (
                    self._directory(directory, os.O_RDONLY | os.O_DIRECTORY) as descriptor,
                    os.scandir(descriptor) as found,
                ):
                    return read(found)
            except FileNotFoundError:
                return []

    def make_directory(self, path: str) -> bool:
        """Make a directory below the root, which is there, and those that it is in.

        Returns whether it was not there.

        Raises:
            StoreError: a part of the path is a link or no directory, or the system refused.
        """
        with self._errors(path, "cannot be created"):
            parts = path.split("/")
            is_new = False
            for number in range(len(parts)):
                with self._directory("/".join(parts[:number])) as parent:
                    try:
                        os.mkdir(parts[number], dir_fd=parent)
                        is_new = True
                    except FileExistsError:
                        is_new = False
            # No link to one; a build that ends at this moment may have removed it.
            with suppress(FileNotFoundError), self._directory(path):
                pass
            return is_new

    def put(self, path: str, content: bytes) -> None:
        """Write a file durably: temporary file, fsync, rename, fsync of the directory.

        Raises:
            StoreError: a link or no file is there, or the system refused, for example because the
                disk is full; nothing is left.
        """
        with self._written(path, content) as (parent, temporary, name):
            os.replace(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            self.sync(path.rpartition("/")[0])

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """Write a file durably unless there is one; return whether it was written.

        Of several processes that try at the same time one succeeds: it gives the temporary file the
        name as a hard link, which is never put in the place of another file.

        Raises:
            StoreError: a link or no file is there, or the system refused; nothing is left.
        """
        with self._written(path, content) as (parent, temporary, name):
            try:
                os.link(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
                is_new = True
            except FileExistsError:
                is_new = False
            os.unlink(temporary, dir_fd=parent)
            self.sync(path.rpartition("/")[0])
        return is_new

    @contextmanager
    def _written(self, path: str, content: bytes) -> Iterator[tuple[int, str, str]]:
        """Write and sync a temporary file; yield the open directory, its name and the file's."""
        next_step = (
            "What was committed before is still there. Free some space or permit the write, then "
            "run the same command again to continue."
        )
        with (
            self._errors(path, f"{len(content):,} bytes cannot be written", next_step),
            self._parent(path) as (parent, name),
        ):
            self._check_replaceable(path, parent, name)
            # Two processes may write the same file, each the same bytes.
            temporary = f"{name}.{uuid4().hex}.tmp"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | OF_ENTRY
            try:
                with os.fdopen(os.open(temporary, flags, 0o666, dir_fd=parent), "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                yield parent, temporary, name
            except OSError:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=parent)
                raise

    @contextmanager
    def alone(self, directory: str) -> Iterator[None]:
        """Keep others waiting that want to be alone with a directory.

        Raises:
            StoreError: there is none, or the file system knows no locks.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        with ExitStack() as stack:
            with self._errors(directory, "cannot be locked"):
                descriptor = stack.enter_context(self._directory(directory, flags))
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield

    def sync(self, directory: str) -> None:
        """Make renames in a directory durable.

        Raises:
            StoreError: the system refused.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        with (
            self._errors(directory, "what was written cannot be made durable"),
            self._directory(directory, flags) as descriptor,
        ):
            os.fsync(descriptor)

    def move(self, old: str, new: str) -> int:
        """Make a file durable, move it to another path, and return its size.

        Raises:
            StoreError: it is no file, something else than a file is at the new path, or the
                system refused.
        """
        with (
            self._errors(new, "no file can be moved there"),
            self._parent(old) as (old_parent, old_name),
            self._parent(new) as (new_parent, new_name),
        ):
            self._check_replaceable(new, new_parent, new_name)
            with os.fdopen(self._open(old, old_parent, old_name, os.O_RDONLY), "rb") as file:
                os.fsync(file.fileno())
                os.replace(old_name, new_name, src_dir_fd=old_parent, dst_dir_fd=new_parent)
                return os.fstat(file.fileno()).st_size

    def delete(self, path: str) -> None:
        """Remove a file, or do nothing if it is gone already.

        Raises:
            StoreError: the system refused.
        """
        self._remove(path, os.unlink)

    def remove_directory(self, path: str) -> None:
        """Remove a directory if it is empty, or do nothing if it is gone already.

        Raises:
            StoreError: the system refused.
        """
        self._remove(path, _remove_if_empty)

    def _remove(self, path: str, remove: Callable[..., None]) -> None:
        with (
            self._errors(path, "cannot be removed"),
            # Another process may remove the same meanwhile.
            suppress(FileNotFoundError),
            self._parent(path) as (parent, name),
        ):
            remove(name, dir_fd=parent)


def _remove_if_empty(name: str, *, dir_fd: int) -> None:
    try:
        os.rmdir(name, dir_fd=dir_fd)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _marked(entry: os.DirEntry[str]) -> str:
    return f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name


def _sizes(found: Iterator[os.DirEntry[str]]) -> Iterator[tuple[str, int]]:
    for entry in found:
        # What was removed meanwhile has no size.
        with suppress(FileNotFoundError):
            if entry.is_file(follow_symlinks=False):
                yield entry.name, entry.stat(follow_symlinks=False).st_size
