"""The files below a directory, read and written without ever following a link.

A link in a directory that somebody sent leads to a file that they could not read; one in a
directory that is written to leads to a file that nobody meant. So every part of a path below the
root is opened by the directory before it and refused if it is a link, whatever changes meanwhile.
The root itself is named by the user and may be one. Only regular files are opened: a named pipe
would be waited on for ever.

Hard links are not told from files. Whoever makes one may already write to what it names.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, FileIO
from pathlib import Path
from uuid import uuid4

from softtargets.errors import StoreError, error_text

TEMPORARY = r"\.[0-9a-f]{32}\.tmp"
"""How the name of what is being written ends; nobody else gives such names."""

_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_OF_ENTRY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# To go through a directory it need not be listed; only Linux can say so.
_PASS_THROUGH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_NO_LINK = (
    "Put the file itself there: links are not followed, since they could lead anywhere. The Hub's "
    "cache is made of links; 'softtargets pull' makes a directory of files."
)


class Tree:
    """The files below a directory. Paths are relative to it, with forward slashes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def where(self, path: str) -> str:
        """Return what messages call a file."""
        return f"{self.root}/{path}"

    def open(self, path: str) -> BufferedReader | None:
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
        with self._errors(path, "cannot be read"):
            try:
                with self._parent(path) as (parent, name):
                    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return False
        return os.path.samestat(found, os.fstat(descriptor))

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, or None if there is none.

        Raises:
            StoreError: it is a link, no file, or cannot be read.
        """
        file = self.open(path)
        if file is None:
            return None
        with file, self._errors(path, "cannot be read"):
            return file.read()

    def hash(self, path: str) -> str | None:
        """Return the SHA-256 of a file in hexadecimal, or None if there is none.

        Raises:
            StoreError: it is a link, no file, or cannot be read.
        """
        file = self.open(path)
        if file is None:
            return None
        with file, self._errors(path, "cannot be read"):
            return hashlib.file_digest(file, "sha256").hexdigest()

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes, or None if there is none.

        Raises:
            StoreError: it is a link, no file, or cannot be reached.
        """
        with self._errors(path, "cannot be read"):
            try:
                with self._parent(path) as (parent, name):
                    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return None
            self._check_file(path, found)
            return found.st_size

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory, sorted; none if there is no such directory.

        Raises:
            StoreError: it is a link, no directory, or cannot be read.
        """
        with self._errors(directory, "cannot be read"):
            try:
                with self._directory(directory, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
                    return sorted(os.listdir(descriptor))  # noqa: PTH208
            except FileNotFoundError:
                return []

    def is_directory(self, path: str) -> bool:
        """Return whether there is a directory, and no link to one."""
        return stat.S_ISDIR(self._mode(path))

    def is_file(self, path: str) -> bool:
        """Return whether there is a file, and no link to one."""
        return stat.S_ISREG(self._mode(path))

    def make_directory(self, path: str) -> None:
        """Make a directory below the root, which is there, and those that it is in.

        Raises:
            StoreError: a part of the path is a link or no directory, or the system refused.
        """
        with self._errors(path, "cannot be created"):
            parts = path.split("/")
            for number in range(len(parts)):
                with (
                    self._directory("/".join(parts[:number])) as parent,
                    suppress(FileExistsError),
                ):
                    os.mkdir(parts[number], dir_fd=parent)
            # No link to one; a build that ends at this moment may have removed it.
            with suppress(FileNotFoundError), self._directory(path):
                pass

    def write(self, path: str, content: bytes) -> None:
        """Write a file durably: temporary file, fsync, rename, fsync of the directory.

        Raises:
            StoreError: a link or no file is there, or the system refused, for example because the
                disk is full; nothing is left.
        """
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
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OF_ENTRY
            try:
                with os.fdopen(os.open(temporary, flags, 0o666, dir_fd=parent), "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
                self.sync(path.rpartition("/")[0])
            except OSError:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=parent)
                raise

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

    def remove(self, path: str) -> None:
        """Remove a file, or a directory if it is empty; or do nothing if it is gone already.

        Raises:
            StoreError: the system refused.
        """
        is_directory = self.is_directory(path)
        with (
            self._errors(path, "cannot be removed"),
            # Another process may remove the same meanwhile.
            suppress(FileNotFoundError),
            self._parent(path) as (parent, name),
        ):
            if not is_directory:
                os.unlink(name, dir_fd=parent)
                return
            try:
                os.rmdir(name, dir_fd=parent)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise

    def _mode(self, path: str) -> int:
        """Return the mode of what is there, of a link its own; 0 if nothing is."""
        with self._errors(path, "cannot be read"):
            try:
                with self._parent(path) as (parent, name):
                    return os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
            except FileNotFoundError:
                return 0

    def _open(self, path: str, parent: int, name: str, flags: int) -> int:
        # Looked at before it is opened, so that the message can say what is there.
        self._check_replaceable(path, parent, name)
        descriptor = os.open(name, flags | _OF_ENTRY, 0o666, dir_fd=parent)
        try:
            self._check_file(path, os.fstat(descriptor))
        except StoreError:
            os.close(descriptor)
            raise
        return descriptor

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """Yield the open directory that a path is in, and its name there."""
        directory, _, name = path.rpartition("/")
        with self._directory(directory) as descriptor:
            yield descriptor, name

    @contextmanager
    def _directory(self, path: str, flags: int = _PASS_THROUGH) -> Iterator[int]:
        """Yield a directory below the root, opened part by part; FileNotFoundError without it."""
        parts = path.split("/") if path else []
        try:
            descriptor = os.open(self.root, flags if not parts else _PASS_THROUGH)
        except NotADirectoryError as error:
            raise FileNotFoundError(*error.args) from error
        try:
            for number, name in enumerate(parts, start=1):
                found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode):
                    raise self._strange("/".join(parts[:number]), "a directory", found)
                own_flags = flags if number == len(parts) else _PASS_THROUGH
                inner = os.open(name, own_flags | os.O_NOFOLLOW, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    def _check_replaceable(self, path: str, parent: int, name: str) -> None:
        with suppress(FileNotFoundError):
            self._check_file(path, os.stat(name, dir_fd=parent, follow_symlinks=False))

    def _check_file(self, path: str, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise self._strange(path, "a file", found)

    def _strange(self, path: str, expected: str, found: os.stat_result) -> StoreError:
        kind = stat.S_IFMT(found.st_mode)
        next_step = f"Put {expected} there, or remove it."
        return StoreError(
            self.where(path),
            expected=expected,
            found=_KINDS.get(kind, "something else"),
            next_step=_NO_LINK if kind == stat.S_IFLNK else next_step,
        )

    @contextmanager
    def _errors(self, path: str, failed: str, next_step: str = "") -> Iterator[None]:
        """Raise what the system raises within as StoreError."""
        try:
            yield
        # An embedded null byte is a ValueError.
        except (OSError, ValueError) as error:
            raise StoreError(
                self.where(path),
                failed=failed,
                found=error_text(error),
                next_step=next_step or "Permit it, or put the file somewhere else.",
            ) from error
