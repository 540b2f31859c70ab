"""Opening what is below a directory without ever following a link.

A link in a directory that somebody sent leads to a file that they could not read; one in a
directory that is written to leads to a file that nobody meant. So every part of a path below the
root is opened by the directory before it and refused if it is a link, whatever changes meanwhile.
The root itself is named by the user and may be one. Only regular files are opened: a named pipe
would be waited on for ever.

Hard links are not told from files. Whoever makes one may already write to what it names.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from softtargets.errors import StoreError, error_text

_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
OF_ENTRY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# To go through a directory it need not be listed; only Linux can say so.
_PASS_THROUGH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_NO_LINK = (
    "Put the file itself there: links are not followed, since they could lead anywhere. The Hub's "
    "cache is made of links; 'softtargets pull' makes a directory of files."
)


class PathOpener:
    """Opens paths below a directory. They are relative to it, with forward slashes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def where(self, path: str) -> str:
        """Return what messages call a file."""
        return f"{self.root}/{path}"

    def _status(self, path: str) -> os.stat_result | None:
        """Return what is there, of a link the link itself; None if nothing is."""
        with self._errors(path, "cannot be read"):
            try:
                with self._parent(path) as (parent, name):
                    return os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return None

    def _open(self, path: str, parent: int, name: str, flags: int) -> int:
        # Looked at before it is opened, so that the message can say what is there.
        self._check_replaceable(path, parent, name)
        descriptor = os.open(name, flags | OF_ENTRY, 0o666, dir_fd=parent)
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
