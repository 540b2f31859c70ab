"""The clients of object stores: pyarrow's own, and whatever fsspec opens.

Both give exact ranges, in one request each where the client knows how: no read-ahead, because
every range is known before it is asked for.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from datetime import timedelta
from threading import Lock
from typing import Any, Protocol

import fsspec
import pyarrow as pa
from pyarrow import fs

from softtargets.errors import InputError, StoreError
from softtargets.places.file_versions import FileVersion
from softtargets.places.fsspec_client import FsspecClient
from softtargets.urls import Secrets, names_a_place, redacted, schemes

_ARROW_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")
_NO_PLACES = ("async_wrapper", "asyncwrapper", "dask", "dir", "generic", "reference")
"""What fsspec opens by a scheme, but is no place: these wrap others, send code to a cluster, or
follow a file of references whose templates are code."""
_MOST_HANDLES = 4096
TIMEOUT = 10.0
"""Seconds to wait for a connection, and for another byte."""


class Client(Protocol):
    """Reads files of one file system. It belongs to the process that made it."""

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes, or None if there is none."""

    def read(self, path: str) -> bytes:
        """Return all of a file."""

    def read_range(self, path: str, offset: int, num_bytes: int) -> bytes:
        """Return a range of a file; it is shorter where the file ends."""

    def entries(self, directory: str) -> dict[str, int | None]:
        """Return the sizes in bytes of what is in a directory, by name; nothing without it.

        The name of a directory ends with a slash. It has no size, nor has what is not told of.
        """

    def version(self, path: str) -> FileVersion:
        """Return the version of a file that is there now.

        Raises:
            FileNotFoundError: there is none.
        """

    def forget(self, path: str) -> None:
        """Know nothing of a file any more, as it may have changed."""

    def renewed(self) -> Client:
        """Return a client for this process, from one of the process that it was forked from."""


class ArrowClient:
    """A file system of pyarrow."""

    def __init__(self, filesystem: fs.FileSystem) -> None:
        self._filesystem = filesystem
        # To open a file asks for its size, once: its ranges are one request each then.
        self._files: dict[str, pa.NativeFile] = {}
        self._has_answered = False
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        # Open files and the lock stay in this process.
        return ArrowClient, (self._filesystem,)

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes, or None if there is none."""
        found = self._filesystem.get_file_info(path)
        return found.size if found.type == fs.FileType.File else None

    def read(self, path: str) -> bytes:
        """Return all of a file."""
        with self._open(path) as file:
            content: bytes = file.read()
        return content

    def read_range(self, path: str, offset: int, num_bytes: int) -> bytes:
        """Return a range of a file; it is shorter where the file ends."""
        content: bytes = self._file(path).read_at(num_bytes, offset)
        return content

    def _file(self, path: str) -> pa.NativeFile:
        with self._lock:
            file = self._files.get(path)
        if file is None:
            file = self._open(path)
            with self._lock:
                self._files[path] = file
                if len(self._files) > _MOST_HANDLES:
                    self._files.pop(next(iter(self._files)))
        return file

    def _open(self, path: str) -> pa.NativeFile:
        if self._filesystem.type_name == "abfs" and not self._has_answered:
            # Where Azure's client finds no credentials, opening a file ends the process.
            self._filesystem.get_file_info(path)
            self._has_answered = True
        return self._filesystem.open_input_file(path)

    def entries(self, directory: str) -> dict[str, int | None]:
        """Return the sizes of what is in a directory, by name."""
        selector = fs.FileSelector(directory, allow_not_found=True)
        return {
            f"{found.base_name}{'/' * (found.type == fs.FileType.Directory)}": found.size
            for found in self._filesystem.get_file_info(selector)
        }

    def version(self, path: str) -> FileVersion:
        """Return the version of a file, which is opened anew."""
        self.forget(path)
        file = self._file(path)
        return FileVersion.of(file.metadata() or {}, file.size())

    def forget(self, path: str) -> None:
        """Open a file anew when it is read next."""
        with self._lock:
            self._files.pop(path, None)

    def renewed(self) -> ArrowClient:
        """Return a client with connections of its own."""
        return ArrowClient(_remade(self._filesystem))


def open_client(url: str, filesystem: Any) -> tuple[Client, str]:
    """Return the client that opens a URL or a path of a file system, and the path in it.

    Raises:
        InputError: there is none.
        StoreError: it cannot reach the place.
    """
    if isinstance(filesystem, fs.FileSystem):
        return ArrowClient(filesystem), _without_scheme(url)
    if isinstance(filesystem, fsspec.AbstractFileSystem):
        return FsspecClient(filesystem), filesystem._strip_protocol(url)
    if filesystem is not None:
        raise InputError(
            "Store.open, filesystem",
            expected="a file system of pyarrow.fs or of fsspec",
            found=f"a {type(filesystem).__name__}",
            next_step="For example pyarrow.fs.S3FileSystem(), or fsspec.filesystem('memory').",
        )
    _check_names_files(url)
    secrets = Secrets(url)
    try:
        return _client_of(url)
    except OSError as error:
        raise StoreError(
            redacted(url),
            failed="the place cannot be reached",
            found=secrets.said(error),
            next_step="Check the URL, the credentials and the network, and run it again.",
        ) from secrets.cause(error)
    # Clients that are given half a URL stumble in ways of their own.
    except Exception as error:  # noqa: BLE001
        raise InputError(
            redacted(url),
            expected="a URL that pyarrow.fs or fsspec opens",
            found=secrets.said(error),
            next_step="Correct it; install what fsspec needs for its scheme; or pass filesystem=.",
        ) from secrets.cause(error)


def _client_of(url: str) -> tuple[Client, str]:
    if schemes(url)[0] in _ARROW_SCHEMES:
        made, path = fs.FileSystem.from_uri(url)
        return ArrowClient(_remade(made)), path
    made, path = fsspec.core.url_to_fs(url)
    return FsspecClient(made), path


def _check_names_files(url: str) -> None:
    """Check that a URL names a place with files.

    Raises:
        InputError: it does not.
    """
    if not names_a_place(url):
        raise InputError(
            redacted(url),
            expected="a URL that names a place, as s3://bucket/store does",
            found="a scheme alone",
            next_step="Correct it.",
        )
    parts = [scheme for scheme in schemes(url) if scheme in _NO_PLACES]
    if parts:
        raise InputError(
            redacted(url),
            expected="the URL of a place with files",
            found=f"{parts[0]}://, which names other places",
            next_step="Pass the URL of the place itself, or filesystem=.",
        )


def client_options(filesystem: Any) -> Mapping[str, Any]:
    """Return what a file system was made with, keys and tokens among it."""
    if isinstance(filesystem, fsspec.AbstractFileSystem):
        options: Mapping[str, Any] = filesystem.storage_options
        return options
    if isinstance(filesystem, fs.S3FileSystem | fs.GcsFileSystem):
        _, (options,) = filesystem.__reduce__()
        return options
    return {}


def _remade(filesystem: fs.FileSystem) -> fs.FileSystem:
    """Return the same file system with connections of its own, which gives up soon.

    S3's client would try 30 times, for minutes if nothing comes, and that of Google for a quarter
    of an hour; neither a URL nor `from_uri` changes that. Whoever reads tries again by itself.
    """
    if isinstance(filesystem, fs.S3FileSystem):
        limits = {
            "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=1),
            "connect_timeout": TIMEOUT,
            "request_timeout": TIMEOUT,
        }
    elif isinstance(filesystem, fs.GcsFileSystem):
        limits = {"retry_time_limit": timedelta(seconds=TIMEOUT)}
    else:
        return copy.copy(filesystem)
    given = {
        name: value
        for name, value in client_options(filesystem).items()
        if value not in (None, -1.0)
    }
    return type(filesystem)(**(limits | given))


def _without_scheme(url: str) -> str:
    """Return the path in a file system that a URL of it names, or a path as it is."""
    if "://" not in url:
        return url
    authority, slash, path = re.split("[?#]", url.partition("://")[2])[0].partition("/")
    return f"{authority.rpartition('@')[2]}{slash}{path}"
