"""Ranges of remote shards on the local disk: several processes share a directory of limited size.

A range is a file, named by what it is: the store's fingerprint, the shard, its place and checksum.
So it never goes stale, wherever the store is moved; and whoever reads it checks it, so that what
was damaged, cut off, swapped or written by someone else counts as not there.

Every change of the directory is made under one lock, which also keeps the sum of all sizes: the
ranges that were used longest ago are deleted before a new one is written, so that the files never
take more than the limit, whatever the number of processes. A file that is deleted while it is read
stays readable.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from softtargets.errors import InputError, StoreError
from softtargets.store.files import checksum, make_directory

CACHE_BYTES = 16 << 30
"""The limit by default: 16 GiB."""

_NAMES = "[0-9a-f]" * 64 + ".range"
_TOTAL_BYTES = 21
_TEMPORARY = "new.tmp"
_NUM_FETCH_LOCKS = 256
_KEPT_AFTER_EVICTION = 0.9
"""More is deleted than must be, so that the directory is not listed for every range."""


class RangeCache:
    """Ranges of shards in a directory.

    Args:
        directory: made if it is not there. Nothing is deleted but what a cache wrote.
        max_bytes: limit of the sum of the ranges' sizes.

    Raises:
        StoreError: the directory cannot be made, written or locked.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        make_directory(directory / "locks")
        with self._locked(directory / "size") as account:
            total = self._total(account)
            self._set_total(account, total if total <= max_bytes else self._evict(max_bytes))

    def check_holds(self, num_bytes: int, what: str) -> None:
        """Check that the limit is large enough.

        Raises:
            InputError: it is not.
        """
        if num_bytes > self.max_bytes:
            raise InputError(
                f"{self.directory}, cache_bytes",
                expected=f"{num_bytes:,} or more, for {what}",
                found=f"{self.max_bytes:,}",
                next_step="Pass a larger limit. It pays from one epoch to the next when the whole "
                "store fits.",
            )

    @staticmethod
    def key(fingerprint: str, path: str, offset: int, num_bytes: int, xxh3: str) -> str:
        """Return what a range is called: a hash of what it is."""
        text = f"{fingerprint}/{path}:{offset}+{num_bytes}:{xxh3}"
        return hashlib.sha256(text.encode()).hexdigest()

    def read_into(self, key: str, piece: memoryview, xxh3: str) -> bool | None:
        """Read a range: True if it is right, None if it is not there.

        False when it was there but wrong; then it is deleted.

        Raises:
            StoreError: it can be neither read nor deleted.
        """
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                is_right = os.fstat(file.fileno()).st_size == len(piece)
                is_right = is_right and file.readinto(piece) == len(piece)
            if is_right and checksum(piece) == xxh3:
                with suppress(FileNotFoundError):  # Deleted meanwhile, to make room.
                    os.utime(path)
                return True
        except FileNotFoundError:
            return None
        except OSError as error:
            if not self._delete(path):
                raise self._error("to read what it wrote", error) from error
            return False
        self._delete(path)
        return False

    def write(self, key: str, piece: memoryview) -> None:
        """Keep a range, deleting those used longest ago if there is no room.

        Raises:
            StoreError: the system refused, for example because the disk is full.
        """
        with self._locked(self.directory / "size") as account:
            total = self._total(account)
            if total + len(piece) > self.max_bytes:
                total = self._evict(self.max_bytes - len(piece))
            # Before it is written: after a crash the sum is too large rather than too small.
            self._set_total(account, total + len(piece))
            temporary = self.directory / _TEMPORARY
            try:
                # Not synced: what a power cut spoils is found by its checksum.
                temporary.write_bytes(piece)
                temporary.replace(self._path(key))
            except OSError as error:
                temporary.unlink(missing_ok=True)
                raise self._error(f"room for {len(piece):,} bytes", error) from error

    @contextmanager
    def fetching(self, key: str) -> Iterator[None]:
        """Keep others that want the same range waiting, so that it is fetched once."""
        number = int(key[:8], 16) % _NUM_FETCH_LOCKS
        with self._locked(self.directory / "locks" / f"{number:03d}"):
            yield

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}.range"

    def _delete(self, path: Path) -> bool:
        """Delete a range that is wrong; return whether it is gone."""
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def _evict(self, most_bytes: int) -> int:
        """Delete what was used longest ago until the rest fits; return the size of the rest."""
        (self.directory / _TEMPORARY).unlink(missing_ok=True)
        found = []
        for path in self.directory.glob(_NAMES):
            with suppress(FileNotFoundError):  # Found to be wrong by another process, and deleted.
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        left = sum(size for _, size, _ in found)
        if left > most_bytes:
            for _, size, path in sorted(found):
                if left <= most_bytes * _KEPT_AFTER_EVICTION:
                    break
                path.unlink(missing_ok=True)
                left -= size
        return left

    def _total(self, account: int) -> int:
        """Return the sum of all sizes, which is kept in a file: listing the directory is slow."""
        text = os.pread(account, _TOTAL_BYTES, 0)
        # New, or spoiled by a power cut: the files themselves say it.
        return int(text) if text.strip().isdigit() else self._evict(self.max_bytes)

    @staticmethod
    def _set_total(account: int, num_bytes: int) -> None:
        os.pwrite(account, b"%0*d\n" % (_TOTAL_BYTES - 1, num_bytes), 0)

    @contextmanager
    def _locked(self, path: Path) -> Iterator[int]:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise self._error("a directory that can be written", error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                raise self._error("a file system with locks (flock)", error) from error
            yield descriptor
        finally:
            # Closing is not enough where another thread has forked a process meanwhile.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _error(self, expected: str, error: OSError) -> StoreError:
        return StoreError(
            f"cache {self.directory}",
            expected=expected,
            found=f"{error.strerror or error}",
            next_step="Make room or permit writing there, choose another cache_dir on a local "
            "disk, or leave cache_dir away.",
        )
