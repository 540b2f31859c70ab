"""Ranges of remote shards on the local disk: several processes share a directory of limited size.

A range is a file, named by what it is: the store's fingerprint, the shard, its place and checksum.
So it never goes stale, wherever the store is moved; and whoever reads it checks it, so that what
was damaged, cut off, swapped or written by someone else counts as not there.

Every change of the directory is made under one lock, which also keeps the sum of all sizes: the
ranges that were used longest ago are deleted before a new one is written, so that the files never
take more than the limit, whatever the number of processes. A file that is deleted while it is read
stays readable, and a directory that is deleted is made again.

Others' files may lie in the directory. Only files of the names that a cache gives are deleted.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from softtargets.errors import InputError, StoreError, error_text
from softtargets.hashes import checksum
from softtargets.places.local_files import make_directory
from softtargets.places.lock import hold_lock
from softtargets.places.place import LockGoneError
from softtargets.places.tree import TEMPORARY, Tree

CACHE_BYTES = 16 << 30
"""The limit by default: 16 GiB."""

_RANGE = re.compile(r"[0-9a-f]{64}\.range")
_TEMPORARY = re.compile(f"new{TEMPORARY}")
_TOTAL_BYTES = 21
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
        self._tree = Tree(directory)
        self._make()
        with self._account() as account:
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
            is_right = self._read(path, piece)
        except StoreError as error:
            # Of a disk that is damaged; what is no file nobody here wrote.
            if not isinstance(error.__cause__, OSError):
                raise
            self._tree.delete(path)
            return False
        if is_right is None:
            return None
        if is_right and checksum(piece) == xxh3:
            # Deleted meanwhile, to make room, or another user's.
            with suppress(FileNotFoundError, PermissionError):
                os.utime(self.directory / path, follow_symlinks=False)
            return True
        self._tree.delete(path)
        return False

    def _read(self, path: str, piece: memoryview) -> bool | None:
        """Read a range; return whether it is as long as it has to be, or None if there is none."""
        file = self._tree.open_file(path)
        if file is None:
            return None
        with file:
            try:
                is_right = os.fstat(file.fileno()).st_size == len(piece)
                return is_right and file.readinto(piece) == len(piece)
            except OSError as error:
                raise self._error("what it wrote cannot be read", error) from error

    def write(self, key: str, piece: memoryview) -> None:
        """Keep a range, deleting those used longest ago if there is no room.

        Raises:
            StoreError: the system refused, for example because the disk is full.
        """
        with self._account() as account:
            total = self._total(account)
            if total + len(piece) > self.max_bytes:
                total = self._evict(self.max_bytes - len(piece))
            # Before it is written: after a crash the sum is too large rather than too small.
            self._set_total(account, total + len(piece))
            temporary = self.directory / f"new.{uuid4().hex}.tmp"
            try:
                # Not synced: what a power cut spoils is found by its checksum.
                with open(temporary, "xb") as file:
                    file.write(piece)
                temporary.replace(self.directory / self._path(key))
            except FileNotFoundError:
                return  # The directory was deleted meanwhile, and this range with it.
            except OSError as error:
                temporary.unlink(missing_ok=True)
                raise self._error(f"{len(piece):,} bytes cannot be written", error) from error

    @contextmanager
    def fetching(self, key: str) -> Iterator[None]:
        """Keep others that want the same range waiting, so that it is fetched once."""
        number = int(key[:8], 16) % _NUM_FETCH_LOCKS
        with self._locked(f"locks/{number:03d}", "a range of a shard that it fetches"):
            yield

    @staticmethod
    def _path(key: str) -> str:
        return f"{key}.range"

    def _evict(self, most_bytes: int) -> int:
        """Delete what was used longest ago until the rest fits; return the size of the rest."""
        found = []
        for name in self._tree.names(""):
            if _TEMPORARY.fullmatch(name):
                self._tree.delete(name)
            elif _RANGE.fullmatch(name):
                with suppress(FileNotFoundError):  # Found to be wrong by another, and deleted.
                    status = (self.directory / name).lstat()
                    if stat.S_ISREG(status.st_mode):
                        found.append((status.st_mtime_ns, status.st_size, name))
        left = sum(size for _, size, _ in found)
        if left > most_bytes:
            for _, size, name in sorted(found):
                if left <= most_bytes * _KEPT_AFTER_EVICTION:
                    break
                self._tree.delete(name)
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

    def _make(self) -> None:
        make_directory(self.directory)
        self._tree.make_directory("locks")

    @contextmanager
    def _account(self) -> Iterator[int]:
        """Keep all others from changing the directory; yield the file that has the sum."""
        with self._locked("size", "its turn to change the cache", _TOTAL_BYTES) as account:
            yield account

    @contextmanager
    def _locked(self, path: str, what: str, note_at: int = 0) -> Iterator[int]:
        with ExitStack() as stack:
            descriptor = None
            while descriptor is None:
                try:
                    lock = hold_lock(self._tree, path, wait_for=what, note_at=note_at)
                    descriptor = stack.enter_context(lock)
                except LockGoneError:  # Deleted while it is used.
                    self._make()
            yield descriptor

    def _error(self, failed: str, error: OSError) -> StoreError:
        return StoreError(
            f"cache {self.directory}",
            failed=failed,
            found=error_text(error),
            next_step="Make room or permit writing there, choose another cache_dir on a local "
            "disk, or omit cache_dir.",
        )
