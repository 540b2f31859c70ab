"""Where the files of a store are: in a directory of this machine, or behind a URL.

Paths are relative to the store, with forward slashes. The other locations are in `remote`.
"""

from __future__ import annotations

import errno
import os
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote

from softtargets.errors import CorruptionError, InputError, StoreError, error_text
from softtargets.store.files import checksum
from softtargets.store.manifest import RESTORE
from softtargets.store.shard_table import ShardEntry
from softtargets.store.tree import Tree
from softtargets.urls import is_url, redacted


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCounts:
    """What was read of a store that is behind a URL; all zero for one in a directory."""

    cache_hits: int = 0
    """Row groups and footers that came from the cache on the local disk."""
    cache_misses: int = 0
    """Those that were not there."""
    cache_damaged: int = 0
    """Those that were there, but wrong: they were deleted, and count as misses too."""
    fetched_bytes: int = 0
    """That came over the network, wrong ones included."""
    retries: int = 0
    """Reads that were tried again."""

    def __add__(self, other: ReadCounts) -> ReadCounts:
        return ReadCounts(**{name: value + getattr(other, name) for name, value in self._items()})

    def __sub__(self, other: ReadCounts) -> ReadCounts:
        return ReadCounts(**{name: value - getattr(other, name) for name, value in self._items()})

    def _items(self) -> list[tuple[str, int]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]


_FILE_URL = re.compile(r"file:(//(localhost)?)?(?P<path>/(?!/)[^?#]*)", re.IGNORECASE)

FOOTER = "footer"
"""What the part of a shard after its last row group is called."""


class ShardFile(Protocol):
    """An open shard, of which ranges are read."""

    where: str

    def read_into(self, piece: memoryview, offset: int, xxh3: str, part: str) -> None:
        """Read the range that begins at `offset` and is as long as `piece`, and check it.

        Raises:
            CorruptionError: its checksum is another; `part` is what the message calls it.
            StoreError: it cannot be read.
        """

    def close(self) -> None:
        """Close the file."""


class Location(ABC):
    """Where the files of a store are. `str` of it is for messages and holds no credentials."""

    @property
    def counts(self) -> ReadCounts:
        """Return what this process has read from here so far."""
        return ReadCounts()

    @abstractmethod
    def check_cache(self, num_bytes: int, what: str) -> None:
        """Check that the cache, if there is one, may hold so many bytes.

        Raises:
            InputError: its limit is smaller.
        """

    def where(self, path: str) -> str:
        """Return what messages call a file."""
        return f"{self}/{path}"

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes, or None if there is none."""

    @abstractmethod
    def read(self, path: str, sha256: str | None = None) -> bytes | None:
        """Return the content of a file, or None if there is none.

        What arrives with another hash is asked for again; the caller checks what was returned.
        """

    @abstractmethod
    def names(self, directory: str) -> list[str]:
        """Return the paths of the files in a directory; none if there is no such directory."""

    @abstractmethod
    def open(self, entry: ShardEntry, fingerprint: str) -> ShardFile:
        """Open a shard of the store with this fingerprint.

        Raises:
            CorruptionError: it is missing or of another size, where that is known beforehand.
        """


class Directory(Location):
    """A directory of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tree = Tree(root)

    def __str__(self) -> str:
        return str(self.root)

    def check_cache(self, num_bytes: int, what: str) -> None:
        """Do nothing: there is none."""

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes, or None if there is none.

        Raises:
            StoreError: it is a link or no file, or cannot be reached.
        """
        return self._tree.size(path)

    def read(self, path: str, sha256: str | None = None) -> bytes | None:  # noqa: ARG002
        """Return the content of a file, or None if there is none.

        Raises:
            StoreError: it is a link or no file, or cannot be read.
        """
        return self._tree.read(path)

    def names(self, directory: str) -> list[str]:
        """Return the paths of the files in a directory.

        Raises:
            StoreError: it is a link or no directory, or cannot be read.
        """
        return [f"{directory}/{name}" for name in self._tree.names(directory)]

    def open(self, entry: ShardEntry, fingerprint: str) -> ShardFile:  # noqa: ARG002
        """Open a shard.

        Raises:
            CorruptionError: it is missing, of another size, a link, no file, or cannot be read.
            StoreError: this process has too many files open, or no memory.
        """
        where = self.where(entry.path)
        try:
            file = self._tree.open(entry.path)
        except StoreError as error:
            raise _as_damage(error) from error
        num_bytes = None if file is None else os.fstat(file.fileno()).st_size
        if file is None or num_bytes != entry.num_bytes:
            if file is not None:
                file.close()
            raise wrong_size(where, entry.num_bytes, num_bytes)
        return PlainFile(where, file)


def _as_damage(error: StoreError) -> StoreError:
    """Return what keeps a shard from being opened as damage of it, unless the process is why."""
    if getattr(error.__cause__, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return error
    return CorruptionError(
        error.where,
        expected=error.expected,
        found=error.found,
        next_step=error.next_step,
        failed=error.failed,
    )


class PlainFile:
    """A shard in a file of this machine, or in memory."""

    def __init__(self, where: str, file: BinaryIO) -> None:
        self.where = where
        self._file = file

    @classmethod
    def of_content(cls, where: str, content: bytes, num_bytes: int) -> PlainFile:
        """Return a shard that was read as a whole.

        Raises:
            CorruptionError: it is of another size.
        """
        check_size(where, num_bytes, len(content))
        return cls(where, BytesIO(content))

    def read_into(self, piece: memoryview, offset: int, xxh3: str, part: str) -> None:
        """Read a range and check it.

        Raises:
            CorruptionError: its checksum is another, or it cannot be read.
        """
        try:
            self._file.seek(offset)
            count = self._file.readinto(piece)  # type: ignore[attr-defined]
        except OSError as error:
            raise CorruptionError(
                f"{self.where}, {part}",
                failed=f"{len(piece):,} bytes cannot be read",
                found=error_text(error),
                next_step=RESTORE,
            ) from error
        found = checksum(piece[:count])
        if found != xxh3:
            raise wrong_bytes(f"{self.where}, {part}", len(piece), xxh3, count, found)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def wrong_bytes(
    where: str, num_bytes: int, xxh3: str, found_bytes: int, found: str
) -> CorruptionError:
    """Return the error of a range whose checksum is another."""
    return CorruptionError(
        where,
        expected=f"{num_bytes:,} bytes with checksum {xxh3}",
        found=f"{found_bytes:,} bytes with {found}",
        next_step=RESTORE,
    )


def check_size(where: str, expected: int, found: int | None) -> None:
    """Check that a file is there and of its size in the manifest.

    Raises:
        CorruptionError: it is not.
    """
    if found != expected:
        raise wrong_size(where, expected, found)


def wrong_size(where: str, expected: int, found: int | None) -> CorruptionError:
    """Return the error of a file that is missing, or of another size than in the manifest."""
    return CorruptionError(
        where,
        expected=f"{expected:,} bytes",
        found="no file" if found is None else f"{found:,} bytes",
        next_step=RESTORE,
    )


def open_location(
    path: str | os.PathLike[str],
    *,
    filesystem: Any = None,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_bytes: int | None = None,
) -> Location:
    """Return where a path, a URL, or a path of a file system leads.

    Raises:
        InputError: nothing opens the URL, or the other arguments do not go with the path.
        StoreError: the place cannot be reached, or the cache's directory cannot be used.
    """
    if path == "":
        raise InputError(
            "Store.open, path",
            expected="a directory or a URL",
            found="an empty text",
            next_step="'.' is the directory that you are in.",
        )
    if isinstance(path, str) and path[:6].lower() == "file:/":
        path = _path_of(path)
    if filesystem is None and not is_url(path):
        if cache_dir is not None or cache_bytes is not None:
            raise InputError(
                "Store.open, cache_dir and cache_bytes",
                expected="a store behind a URL or a file system",
                found=f"the local path {os.fsdecode(path)}",
                next_step="Leave them away: local files are read where they are.",
            )
        return Directory(Path(os.fsdecode(path)))
    # What reads local stores needs no client of an object store.
    from softtargets.store.remote import open_remote

    return open_remote(path, filesystem, cache_dir, cache_bytes)


def _path_of(url: str) -> str:
    """Return the path that a URL of a local file names.

    Raises:
        InputError: it names another machine, or has more than a path.
    """
    found = _FILE_URL.fullmatch(url)
    if found is None:
        raise InputError(
            redacted(url),
            expected="file:///directory, in which a ? and a # of a name are %3F and %23",
            found="another form",
            next_step="Pass the path alone.",
        )
    return unquote(found["path"], errors="surrogateescape")
