"""Files behind a URL that are read from beginning to end, or by ranges: those of a corpus.

Nothing tells beforehand which bytes they have. So what arrives is checked for its length, and the
version of a file is asked for.
"""

from __future__ import annotations

import errno
import glob
import io
import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from softtargets.errors import InputError
from softtargets.places.file_versions import FileVersion
from softtargets.places.filesystems import Client, open_client
from softtargets.places.remote import RemotePlace
from softtargets.urls import Secrets, redacted

_READ_BYTES = 1 << 23
"""Of a file that are asked for, and held, at a time."""
_BELOW = "**"
"""A part of a pattern that stands for any directories."""
_ADDRESS = re.compile(r"(?P<start>[^:]+:/+)(?P<path>[^?#]*)(?P<options>.*)", re.DOTALL)


class InputPlace(RemotePlace):
    """A directory behind a URL, or one file if its path is empty."""

    def where(self, path: str) -> str:
        """Return what messages call a file."""
        return super().where(path) if path else str(self)

    def name(self, path: str) -> str:
        """Return the name of a file, without the directories it is in."""
        # A client of the web has the options of a URL in its paths.
        root = re.split("[?#]", self._root)[0] if "://" in self._root else self._root
        return (path or root).rpartition("/")[2]

    def version(self, path: str) -> FileVersion:
        """Return the version of a file that is there now.

        Raises:
            FileNotFoundError: there is none.
            StoreError: the place cannot be reached.
        """
        try:
            return self._attempt(path, "", lambda client, file: client.version(file))
        except FileNotFoundError as error:
            raise no_file(self.where(path)) from self._secrets.cause(error)

    def read_range(self, path: str, offset: int, num_bytes: int) -> bytes:
        """Return a range of a file, all of it.

        Raises:
            FileNotFoundError: there is no file.
            StoreError: it cannot be read, or is shorter.
        """

        def read(client: Client, file: str) -> bytes:
            content = client.read_range(file, offset, num_bytes)
            self._reading.count(fetched_bytes=len(content))
            if len(content) != num_bytes:
                raise OSError(f"{len(content):,} bytes instead of {num_bytes:,}")
            return content

        try:
            return self._attempt(path, f", {num_bytes:,} bytes at {offset:,}", read)
        except FileNotFoundError as error:
            raise no_file(self.where(path)) from self._secrets.cause(error)

    def stream(self, path: str, num_bytes: int) -> io.BufferedReader:
        """Open a file of a known size; some of it is held at a time."""
        return io.BufferedReader(_Ranges(self, path, num_bytes), _READ_BYTES)

    def matching(self, pattern: str) -> dict[str, int]:
        """Return the sizes of the files that a pattern matches, by path, sorted by its parts.

        It means what `glob` means by it, but for a ?, which begins the options of a URL. Names that
        begin with a dot are matched by patterns that do.

        Raises:
            StoreError: the place cannot be reached.
        """
        found = dict(self._matching("", pattern.split("/")))
        return {path: found[path] for path in sorted(found, key=PurePosixPath)}

    def _matching(self, directory: str, parts: Sequence[str]) -> Iterator[tuple[str, int]]:
        head, *rest = parts
        if not glob.has_magic(head):
            path = f"{directory}/{head}".lstrip("/")
            if rest:
                yield from self._matching(path, rest)
            elif (size := self.size(path)) is not None:
                yield path, size
            return
        if head == _BELOW and rest:
            yield from self._matching(directory, rest)
        for path, size in self._entries(directory).items():
            name = path.rstrip("/").rpartition("/")[2]
            is_hidden = name.startswith(".") and not head.startswith(".")
            if not name or is_hidden or not fnmatchcase(name, head):
                continue
            if path.endswith("/"):
                below = parts if head == _BELOW else rest
                yield from self._matching(path.rstrip("/"), below) if below else ()
            elif not rest:
                known = self.size(path) if size is None else size
                if known is not None:
                    yield path, known


class _Ranges(io.RawIOBase):
    """The content of a file, of which each piece is a range."""

    def __init__(self, place: InputPlace, path: str, num_bytes: int) -> None:
        self._place = place
        self._path = path
        self._num_bytes = num_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = min(len(buffer), self._num_bytes - self._position)
        if size > 0:
            buffer[:size] = self._place.read_range(self._path, self._position, size)
            self._position += size
        return size


def no_file(where: str) -> FileNotFoundError:
    """Return the error of a file that is not there."""
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where)


def find_inputs(url: str) -> tuple[InputPlace, dict[str, int]]:
    """Return a place, and the paths and sizes of the files in it that a URL names.

    The URL of a file has the path "" alone. Where none is, the URL is a pattern, or there is none.

    Raises:
        InputError: nothing opens the URL.
        StoreError: the place cannot be reached.
    """
    base, pattern = _divided(url)
    if not base:
        return _one_file(url)
    place = _open(base)
    found = {}
    if (size := place.size(pattern)) is not None:
        found = {pattern: size}
    return place, found or place.matching(pattern)


def _one_file(url: str) -> tuple[InputPlace, dict[str, int]]:
    place = _open(url)
    size = place.size("")
    return place, {} if size is None else {"": size}


def _open(url: str) -> InputPlace:
    client, root = open_client(url, None)
    return InputPlace(url, client, root, None, Secrets(url))


def _divided(url: str) -> tuple[str, str]:
    """Return the URL of a directory, and the pattern below it; "" twice for a URL without one.

    Raises:
        InputError: the pattern is in a chain of URLs, or its directory is no place by itself.
    """
    found = _ADDRESS.fullmatch(url)
    if found is None:
        return "", ""
    # A key before the last @ may have any sign.
    user, at, address = found["path"].rpartition("@")
    parts = address.split("/")
    first = next((place for place, part in enumerate(parts) if glob.has_magic(part)), None)
    if first is None:
        return "", ""
    is_web = found["start"].lower().startswith("http") and found["options"] != ""
    if first == 0 or "::" in url or is_web:
        raise InputError(
            redacted(url),
            expected="a pattern below a directory that a URL names, as s3://bucket/part-*.jsonl is",
            found="one in a chain of URLs" if "::" in url else "another",
            next_step="Name the files one by one.",
        )
    base = f"{found['start']}{user}{at}{'/'.join(parts[:first])}{found['options']}"
    return base, "/".join(parts[first:])
