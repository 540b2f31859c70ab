"""A place behind a URL: ranges, checked on arrival, and kept on the local disk.

What stays wrong when it was tried again is an error: StoreError where nothing came, CorruptionError
where the bytes are wrong.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

from softtargets.errors import CorruptionError, InputError, StoreError
from softtargets.hashes import checksum, hash_bytes
from softtargets.places.cache import CACHE_BYTES, RangeCache
from softtargets.places.filesystems import Client, client_options, open_client
from softtargets.places.place import Place, ReadCounts, ReadOnlyPlace
from softtargets.places.ranges import FOOTER, RangeFile, wrong_bytes
from softtargets.places.retries import Content, GaveUpError, WrongBytesError, keep_trying
from softtargets.urls import Secrets, redacted

_MOST_FOOTER_BYTES = 1 << 26


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


class RemoteReads(Place):
    """A path of a file system that is not this machine's. Safe in threads and after a fork.

    Args:
        url: of the store, or its path in a file system.
        client: of this process; other processes get their own.
        root: the store's path in its file system.
        cache: where ranges are kept on the local disk, if anywhere.
        secrets: what the client may quote that must be in no message.
    """

    _least_attempts = 1
    """Made however long each takes."""

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
        """Check that the cache, if there is one, may hold so many bytes."""
        if self.cache is not None:
            self.cache.check_holds(num_bytes, what)

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes, or None if there is none."""
        return self._attempt(path, "", lambda client, file: client.size(file))

    def get(self, path: str, sha256: str | None = None) -> bytes | None:
        """Return the content of a file, or None if there is none.

        What arrives with another hash is asked for again, and returned if it stays so.

        Raises:
            StoreError: the place cannot be reached.
        """

        def read_checked(client: Client, file: str) -> bytes:
            content = client.read(file)
            self._reading.count(fetched_bytes=len(content))
            if sha256 is not None and hash_bytes(content) != sha256:
                raise WrongBytesError(content)
            return content

        try:
            return self._attempt(path, "", read_checked)
        except FileNotFoundError:
            return None
        except WrongBytesError as error:
            return error.content

    def list(self, directory: str) -> list[str]:
        """Return the paths of what is in a directory."""
        return sorted(self._entries(directory))

    def sizes(self, directory: str) -> dict[str, int]:
        """Return the sizes of the files in a directory; what the listing leaves open is asked."""
        found = {path: size for path, size in self._entries(directory).items() if path[-1:] != "/"}
        sizes = {path: self.size(path) if size is None else size for path, size in found.items()}
        return {path: size for path, size in sizes.items() if size is not None}

    def _entries(self, directory: str) -> dict[str, int | None]:
        found = self._attempt(directory, "", lambda client, file: client.entries(file))
        return {f"{directory}/{name}".lstrip("/"): size for name, size in found.items()}

    def open(self, path: str, num_bytes: int, fingerprint: str) -> RangeFile:  # noqa: ARG002
        """Open a file; nothing is read yet."""
        return RemoteFile(self, path, fingerprint)

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
                raise WrongBytesError(content)
            piece[:] = content

        where = f"{self.where(path)}, {part}"
        try:
            self._attempt(path, f", {part}", read_checked)
        except FileNotFoundError as error:
            raise CorruptionError(
                where,
                expected=f"a file with {len(piece):,} bytes at {offset:,}",
                found="no file",
            ) from self._secrets.cause(error)
        except WrongBytesError as error:
            found = checksum(error.content)
            raise wrong_bytes(where, len(piece), xxh3, len(error.content), found) from error

    def _attempt(
        self,
        path: str,
        part: str,
        read: Callable[[Client, str], Content],
        expected: str = "to be read",
    ) -> Content:
        """Read with the client until it succeeds, or the attempts are used up."""
        reading, file = self._reading, f"{self._root}/{path}".rstrip("/")

        def between() -> None:
            reading.count(retries=1)
            reading.client.forget(file)

        try:
            return keep_trying(
                lambda: read(reading.client, file), between, least=self._least_attempts
            )
        except GaveUpError as error:
            where, cause = f"{self.where(path)}{part}", error.cause
            raise self._unreachable(where, expected, error.num_attempts, cause) from (
                self._secrets.cause(cause)
            )

    def _unreachable(
        self, where: str, expected: str, attempts: int, cause: BaseException
    ) -> StoreError:
        # Some clients add pages of their inner state after an empty line.
        said = self._secrets.said(cause).partition("\n\n")[0]
        return StoreError(
            where,
            expected=expected,
            found=f"after {attempts} attempt{'s' * (attempts != 1)}: {said}",
            next_step="Check the URL, the credentials and the network, and run it again.",
        )


class RemotePlace(RemoteReads, ReadOnlyPlace):
    """Such a path that is only read."""


class RemoteFile:
    """A file behind a URL."""

    def __init__(self, place: RemoteReads, path: str, fingerprint: str) -> None:
        self.where = place.where(path)
        self._place = place
        self._path = path
        self._fingerprint = fingerprint

    def read_into(self, piece: memoryview, offset: int, xxh3: str, part: str) -> None:
        """Read a range and check it.

        Raises:
            CorruptionError: the file is missing, or what is in it is not what was written.
            StoreError: the place cannot be reached, or the cache cannot be written.
        """
        self._place.read_into(self._path, self._fingerprint, piece, offset, xxh3, part)

    def close(self) -> None:
        """Do nothing: the client keeps its connections for other ranges."""


def open_remote(
    path: str | os.PathLike[str],
    filesystem: Any,
    cache_dir: str | os.PathLike[str] | None,
    cache_bytes: int | None,
) -> RemotePlace:
    """Return the place that a URL or a path of a file system names.

    Raises:
        InputError: nothing opens the URL, or there is a limit without a cache.
        StoreError: the place cannot be reached, or the cache's directory cannot be used.
    """
    if cache_dir is None and cache_bytes is not None:
        raise InputError(
            "Store.open, cache_bytes",
            expected="cache_dir, a directory on a local disk",
            found="a limit without one",
            next_step="Pass cache_dir too, or omit both.",
        )
    url = os.fspath(path)
    client, root = open_client(url, filesystem)
    cache = None
    if cache_dir is not None:
        limit = CACHE_BYTES if cache_bytes is None else cache_bytes
        cache = RangeCache(Path(cache_dir), limit)
    return RemotePlace(url, client, root, cache, Secrets(url, client_options(filesystem)))
