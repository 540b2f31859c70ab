"""A store behind a URL: ranges, tried again and checked on arrival, and kept on the local disk.

What can be wrong for a moment (an error of the server, a connection that breaks, bytes that are not
those of the manifest) is tried again, waiting longer each time, and at random so that the readers
of a cluster don't come back together. What is left then is an error: StoreError where nothing
came, CorruptionError where the bytes are wrong.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from tenacity import (
    RetryCallState,
    RetryError,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from softtargets.errors import CorruptionError, InputError, SoftTargetsError, StoreError
from softtargets.store.cache import CACHE_BYTES, RangeCache
from softtargets.store.files import checksum, hash_bytes
from softtargets.store.filesystems import Client, client_options, open_client
from softtargets.store.location import FOOTER, Location, ReadCounts, ShardFile, wrong_bytes
from softtargets.store.manifest import RESTORE
from softtargets.store.shard_table import ShardEntry
from softtargets.urls import Secrets, redacted

ATTEMPTS = 8
"""Of every read."""
MOST_SECONDS = 60.0
"""No attempt begins later than this after the first."""
FIRST_WAIT, LONGEST_WAIT = 0.25, 10.0
"""Seconds: before the second attempt up to the first of the two, then twice as long each time."""

_FINAL = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    NameError,
    NotImplementedError,
    TypeError,
    ValueError,
)
"""What a second attempt does not mend; clients raise errors of many other types."""

_MOST_FOOTER_BYTES = 1 << 26

Content = TypeVar("Content")


class _WrongBytesError(Exception):
    """Something else arrived than what was written."""

    def __init__(self, content: bytes) -> None:
        super().__init__(f"{len(content):,} bytes with another checksum")
        self.content = content


class _Reading:
    """What belongs to one process: its client, what it counts, and the footers it has read."""

    def __init__(self, client: Client) -> None:
        self.process_id = os.getpid()
        self.client = client
        self.counts = ReadCounts()
        self._lock = Lock()
        self._footers: dict[str, bytes] = {}
        self._footer_bytes = 0

    def count(self, **counts: int) -> None:
        """Count something that was read."""
        with self._lock:
            self.counts += ReadCounts(**counts)

    def footer(self, key: str) -> bytes | None:
        """Return a footer that was kept."""
        return self._footers.get(key)

    def keep_footer(self, key: str, piece: memoryview) -> None:
        """Keep a footer in memory: each row group of its shard needs it again."""
        with self._lock:
            if key not in self._footers:
                self._footers[key] = bytes(piece)
                self._footer_bytes += len(piece)
            while self._footer_bytes > _MOST_FOOTER_BYTES:
                oldest = next(iter(self._footers))
                self._footer_bytes -= len(self._footers.pop(oldest))


class RemoteLocation(Location):
    """A path of a file system that is not this machine's. Safe in threads and after a fork.

    Args:
        url: of the store, or its path in a file system.
        client: of this process; other processes get their own.
        root: the store's path in its file system.
        cache: where ranges are kept on the local disk, if anywhere.
        secrets: what the client may quote that must be in no message.
    """

    def __init__(
        self, url: str, client: Client, root: str, cache: RangeCache | None, secrets: Secrets
    ) -> None:
        self.cache = cache
        self._text = redacted(url).rstrip("/")
        self._secrets = secrets
        self._root = root.rstrip("/")
        self._reading_here = _Reading(client)

    def __str__(self) -> str:
        return self._text

    def __getstate__(self) -> dict[str, Any]:
        # A process that is spawned counts anew, and no lock crosses.
        return {**self.__dict__, "_reading_here": self._reading.client}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reading_here = _Reading(state["_reading_here"].renewed())

    @property
    def _reading(self) -> _Reading:
        if self._reading_here.process_id != os.getpid():
            # Connections, event loops and locks of the parent are of no use after a fork.
            self._reading_here = _Reading(self._reading_here.client.renewed())
        return self._reading_here

    @property
    def counts(self) -> ReadCounts:
        """Return what this process has read from here so far."""
        return self._reading.counts

    def check_cache(self, num_bytes: int, what: str) -> None:
        """Check that the cache, if there is one, may hold so many bytes.

        Raises:
            InputError: its limit is smaller.
        """
        if self.cache is not None:
            self.cache.check_holds(num_bytes, what)

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes, or None if there is none.

        Raises:
            StoreError: the place cannot be reached.
        """
        return self._attempt(path, "", lambda client, file: client.size(file))

    def read(self, path: str, sha256: str | None = None) -> bytes | None:
        """Return the content of a file, or None if there is none.

        What arrives with another hash is asked for again, and returned if it stays so.

        Raises:
            StoreError: the place cannot be reached.
        """

        def read_checked(client: Client, file: str) -> bytes:
            content = client.read(file)
            self._reading.count(fetched_bytes=len(content))
            if sha256 is not None and hash_bytes(content) != sha256:
                raise _WrongBytesError(content)
            return content

        try:
            return self._attempt(path, "", read_checked)
        except FileNotFoundError:
            return None
        except _WrongBytesError as error:
            return error.content

    def names(self, directory: str) -> list[str]:
        """Return the paths of the files in a directory.

        Raises:
            StoreError: the place cannot be reached.
        """
        names = self._attempt(directory, "", lambda client, file: client.names(file))
        return sorted(f"{directory}/{name}" for name in names)

    def open(self, entry: ShardEntry, fingerprint: str) -> ShardFile:
        """Open a shard; nothing is read yet."""
        return RemoteFile(self, entry.path, fingerprint)

    def read_into(
        self, path: str, fingerprint: str, piece: memoryview, offset: int, xxh3: str, part: str
    ) -> None:
        """Read a range of a shard, from memory, the cache or the network, and check it.

        Raises:
            CorruptionError: the file is missing, or what is in it is not what was written.
            StoreError: the place cannot be reached, or the cache cannot be written.
        """
        reading, cache = self._reading, self.cache
        key = RangeCache.key(fingerprint, path, offset, len(piece), xxh3)
        footer = reading.footer(key)
        if footer is not None:
            piece[:] = footer
            return
        if not self._read_cached(key, piece, xxh3):
            with nullcontext() if cache is None else cache.fetching(key):
                # Another thread or process may have fetched it while this one waited.
                if not self._read_cached(key, piece, xxh3):
                    self._fetch(path, piece, offset, xxh3, part)
                    if cache is not None:
                        reading.count(cache_misses=1)
                        cache.write(key, piece)
        if part == FOOTER:
            reading.keep_footer(key, piece)

    def _read_cached(self, key: str, piece: memoryview, xxh3: str) -> bool:
        found = None if self.cache is None else self.cache.read_into(key, piece, xxh3)
        if found is not None:
            self._reading.count(cache_hits=int(found), cache_damaged=int(not found))
        return bool(found)

    def _fetch(self, path: str, piece: memoryview, offset: int, xxh3: str, part: str) -> None:
        def read_checked(client: Client, file: str) -> None:
            content = client.read_range(file, offset, len(piece))
            self._reading.count(fetched_bytes=len(content))
            if checksum(content) != xxh3:
                raise _WrongBytesError(content)
            piece[:] = content

        where = f"{self.where(path)}, {part}"
        try:
            self._attempt(path, f", {part}", read_checked)
        except FileNotFoundError as error:
            raise CorruptionError(
                where,
                expected=f"a file with {len(piece):,} bytes at {offset:,}",
                found="no file",
                next_step=RESTORE,
            ) from self._secrets.cause(error)
        except _WrongBytesError as error:
            found = checksum(error.content)
            raise wrong_bytes(where, len(piece), xxh3, len(error.content), found) from error

    def _attempt(self, path: str, part: str, read: Callable[[Client, str], Content]) -> Content:
        """Read with the client until it succeeds, or the attempts are used up."""
        reading, file = self._reading, f"{self._root}/{path}"

        def before_retry(_: RetryCallState) -> None:
            reading.count(retries=1)
            reading.client.forget(file)

        attempts = Retrying(
            stop=stop_after_attempt(ATTEMPTS) | stop_before_delay(MOST_SECONDS),
            wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
            retry=retry_if_exception(_may_pass),
            before_sleep=before_retry,
        )
        try:
            return attempts(read, reading.client, file)
        except RetryError as error:
            cause = error.last_attempt.exception()
            assert cause is not None
            if isinstance(cause, _WrongBytesError):
                raise cause from None
            tried = error.last_attempt.attempt_number
            raise self._unreachable(f"{self.where(path)}{part}", tried, cause) from (
                self._secrets.cause(cause)
            )
        except (FileNotFoundError, SoftTargetsError):
            raise
        # A broken client raises errors of any type.
        except Exception as error:  # noqa: BLE001
            raise self._unreachable(f"{self.where(path)}{part}", 1, error) from (
                self._secrets.cause(error)
            )

    def _unreachable(self, where: str, attempts: int, cause: BaseException) -> StoreError:
        return StoreError(
            where,
            expected="to be read",
            found=f"after {attempts} attempt{'s' * (attempts != 1)}: {self._secrets.said(cause)}",
            next_step="Check the URL, the credentials and the network, and run it again.",
        )


def _may_pass(error: BaseException) -> bool:
    """Return whether what a client raised may be otherwise at another attempt."""
    return isinstance(error, Exception) and not isinstance(error, (SoftTargetsError, *_FINAL))


class RemoteFile:
    """A shard behind a URL."""

    def __init__(self, location: RemoteLocation, path: str, fingerprint: str) -> None:
        self.where = location.where(path)
        self._location = location
        self._path = path
        self._fingerprint = fingerprint

    def read_into(self, piece: memoryview, offset: int, xxh3: str, part: str) -> None:
        """Read a range and check it.

        Raises:
            CorruptionError: the file is missing, or what is in it is not what was written.
            StoreError: the place cannot be reached, or the cache cannot be written.
        """
        self._location.read_into(self._path, self._fingerprint, piece, offset, xxh3, part)

    def close(self) -> None:
        """Do nothing: the client keeps its connections for other ranges."""


def open_remote(
    path: str | os.PathLike[str],
    filesystem: Any,
    cache_dir: str | os.PathLike[str] | None,
    cache_bytes: int | None,
) -> RemoteLocation:
    """Return the location that a URL or a path of a file system names.

    Raises:
        InputError: nothing opens the URL, or there is a limit without a cache.
        StoreError: the place cannot be reached, or the cache's directory cannot be used.
    """
    if cache_dir is None and cache_bytes is not None:
        raise InputError(
            "Store.open, cache_bytes",
            expected="cache_dir, a directory on a local disk",
            found="a limit without one",
            next_step="Pass cache_dir too, or leave both away.",
        )
    url = os.fspath(path)
    client, root = open_client(url, filesystem)
    cache = None
    if cache_dir is not None:
        limit = CACHE_BYTES if cache_bytes is None else cache_bytes
        cache = RangeCache(Path(cache_dir), limit)
    return RemoteLocation(url, client, root, cache, Secrets(url, client_options(filesystem)))
