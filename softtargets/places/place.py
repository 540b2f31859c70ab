"""What a place does for the stores in it: the protocol `Place`.

Paths are relative to the place, with forward slashes. A place reads with `size`, `get`, `list`,
`sizes` and `open`, and writes with `put`, `put_if_absent`, `put_if_match` and `delete`. A
`ReadOnlyPlace` refuses to be written to. A place in which several processes may write at a time has
locks too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any, NoReturn

from softtargets.errors import InputError
from softtargets.places.local_files import COPY_IT
from softtargets.places.ranges import PlainFile, RangeFile


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


PROBE = "work/probe"
"""How the paths begin at which a place tries what its server refuses."""


class LockGoneError(Exception):
    """The directory of the lock was removed: whoever held it has finished."""


class Place(ABC):
    """Where the files of a store are. `str` of it is for messages and holds no credentials."""

    has_locks = False
    """Whether several processes may build a store here at the same time."""
    requests_at_once = 1
    """How many requests are worth to be made at the same time, each by a thread."""

    @property
    def counts(self) -> ReadCounts:
        """Return what this process has read from here so far."""
        return ReadCounts()

    def check_cache(self, num_bytes: int, what: str) -> None:
        """Check that the cache, if there is one, may hold so many bytes.

        Raises:
            InputError: its limit is smaller.
        """
        del num_bytes, what

    def where(self, path: str) -> str:
        """Return what messages call a file."""
        return f"{self}/{path}"

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes, or None if there is none.

        Raises:
            StoreError: it is no file, or the place cannot be reached.
        """

    @abstractmethod
    def get(self, path: str, sha256: str | None = None) -> bytes | None:
        """Return the content of a file, or None if there is none.

        What arrives with another hash is asked for again; the caller checks what was returned.

        Raises:
            StoreError: it is no file, or the place cannot be reached.
        """

    @abstractmethod
    def list(self, directory: str) -> list[str]:
        """Return the paths of what is in a directory, sorted; none if there is no such directory.

        The path of a directory ends with a slash. The place itself is "".

        Raises:
            StoreError: the place cannot be reached.
        """

    def sizes(self, directory: str) -> dict[str, int]:
        """Return the sizes in bytes of the files in a directory, by path; one listing tells them.

        Raises:
            StoreError: the place cannot be reached.
        """
        paths = [path for path in self.list(directory) if not path.endswith("/")]
        found = {path: self.size(path) for path in paths}
        return {path: size for path, size in found.items() if size is not None}

    def open(self, path: str, num_bytes: int, fingerprint: str) -> RangeFile:
        """Open a file of a known size to read ranges of it.

        Args:
            path: of the file.
            num_bytes: its size in the manifest.
            fingerprint: of its store, by which a cache tells its ranges from those of others.

        Raises:
            CorruptionError: it is missing or of another size, where that is known beforehand.
        """
        del fingerprint
        return self.open_uncached(path, num_bytes)

    def open_uncached(self, path: str, num_bytes: int, sha256: str | None = None) -> RangeFile:
        """Open a file to read what is really there: at once, and past any cache.

        Raises:
            CorruptionError: it is missing or of another size.
        """
        return PlainFile.of_content(self.where(path), self.get(path, sha256), num_bytes)

    @abstractmethod
    def check_writable(self) -> None:
        """Check that files may be written here; nothing is touched.

        Raises:
            InputError: the place is only read.
            StoreError: something else is in its place.
        """

    @abstractmethod
    def put(self, path: str, content: bytes) -> None:
        """Write a file durably: whoever reads sees the old content or the new, whatever happens.

        Raises:
            InputError: the place is only read.
            StoreError: the place refused; the old content is still there.
        """

    @abstractmethod
    def put_if_absent(self, path: str, content: bytes) -> bool:
        """Write a file that is not there; return whether it was this call that wrote it.

        Of several that try at the same time one succeeds.

        Raises:
            InputError: the place is only read.
            StoreError: the place refused.
        """

    @abstractmethod
    def get_tagged(self, path: str) -> tuple[bytes, str] | None:
        """Return the content of a file and its tag for `put_if_match`, or None if there is none.

        Raises:
            InputError: the place is only read.
            StoreError: it is no file, or the place cannot be reached.
        """

    @abstractmethod
    def put_if_match(self, path: str, content: bytes, tag: str) -> bool:
        """Write a file if its content is still the one of a tag; return whether it was written.

        Of several that try with the same tag at the same time one succeeds, if each would write
        another content.

        Raises:
            InputError: the place is only read.
            StoreError: the place refused.
        """

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove a file, or do nothing if it is gone already.

        Raises:
            InputError: the place is only read.
            StoreError: the place refused.
        """

    def delete_all(self, paths: Sequence[str]) -> None:
        """Remove files in any order; what is gone already does no harm.

        Raises:
            InputError: the place is only read.
            StoreError: the place refused.
        """
        for path in paths:
            self.delete(path)

    def check_locks(self) -> None:
        """Check that several processes may write here at the same time.

        Raises:
            InputError: they would not keep out of each other's way.
        """
        if not self.has_locks and not self.has_conditional_puts():
            raise InputError(
                str(self),
                expected="a place with locks or conditional writes, for several processes to build "
                "in",
                found="one without",
                next_step="Build there in one process, without --workers and --unit-range.",
            )

    def has_conditional_puts(self) -> bool:
        """Return whether `put_if_absent` and `put_if_match` keep their promises among processes.

        An object store finds out by trying, the first time.

        Raises:
            StoreError: the place cannot be reached.
        """
        return self.has_locks

    def make_directory(self, path: str) -> bool:
        """Make a directory, and those that it is in, where the place has such; the place is "".

        Returns whether it was not there before. Files are put into directories that were made.
        """
        del path
        return False

    def remove_directory(self, path: str) -> None:
        """Remove a directory that is empty, where the place has such."""
        del path

    def lock(
        self, path: str, *, shared: bool = False, wait_for: str | None = None
    ) -> AbstractContextManager[object]:
        """Hold a lock of some name, which the place drops when its holder dies.

        Args:
            path: of the lock, which may be a file.
            shared: let others hold it too that share it.
            wait_for: wait until nobody else holds it, and call it so when it takes long.

        Raises:
            LockGoneError: the directory of the lock is gone.
            BusyError: another process holds it.
            StoreError: the place refused.
        """
        del path, shared, wait_for
        return nullcontext()

    def lock_holder(self, path: str) -> str:
        """Return who holds a lock, or held it last; nothing if nobody did."""
        del path
        return ""


class ReadOnlyPlace(Place):
    """A place that refuses to be written to."""

    def check_writable(self) -> None:
        """Refuse.

        Raises:
            InputError: always.
        """
        self._refuse()

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise InputError(
            str(self),
            expected="a place to write to",
            found="one that is only read",
            next_step=COPY_IT,
        )

    put = put_if_absent = get_tagged = put_if_match = delete = _refuse
