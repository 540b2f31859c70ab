"""A file of a corpus: on this machine, or behind a URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from softtargets.errors import CorpusError
from softtargets.places.file_versions import FileVersion
from softtargets.places.input_place import InputPlace


class CorpusFile(Protocol):
    """A file that is read; `str` of it is for messages and holds no credentials."""

    @property
    def name(self) -> str:
        """Return its name, without the directories it is in."""

    @property
    def num_bytes(self) -> int:
        """Return its size, compressed as it is.

        Raises:
            OSError: it is gone.
        """

    def version(self) -> FileVersion:
        """Return its version now.

        Raises:
            OSError: it is gone.
            StoreError: it cannot be reached.
        """

    def open(self) -> BufferedReader:
        """Open it to be read from its beginning, as it is stored.

        Raises:
            OSError, StoreError: it cannot be read; so may what reads on.
        """


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """Return its name."""
        return self.path.name

    @property
    def num_bytes(self) -> int:
        """Return its size now."""
        return self.path.stat().st_size

    def version(self) -> FileVersion:
        """Return its size and when it was written last."""
        found = self.path.stat()
        return FileVersion(found.st_size, f"mtime {found.st_mtime_ns}")

    def open(self) -> BufferedReader:
        """Open it."""
        return open(self.path, "rb")


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlFile:
    """A file behind a URL, with the size that it had when it was found."""

    place: InputPlace
    path: str
    num_bytes: int

    def __str__(self) -> str:
        return self.place.where(self.path)

    @property
    def name(self) -> str:
        """Return its name."""
        return self.place.name(self.path)

    def version(self) -> FileVersion:
        """Return what the server tells of its version."""
        return self.place.version(self.path)

    def open(self) -> BufferedReader:
        """Open it; each piece is asked for when it is read."""
        return self.place.stream(self.path, self.num_bytes)


@contextmanager
def unchanged(file: CorpusFile, known: FileVersion | None = None) -> Iterator[FileVersion]:
    """Yield the version of a file that is read, and check that it stays.

    Args:
        file: that is read.
        known: the version that it has to have, if one is known.

    Raises:
        CorpusError: it is another one, or becomes another. Such an error replaces any that came
            of reading half of one version and half of the other.
        OSError: the file is gone.
    """
    version, size = file.version(), file.num_bytes
    if known is not None and version != known:
        raise _changed(file, known, version)
    if version.num_bytes != size:
        raise _changed(file, FileVersion(size), version)
    try:
        yield version
    except Exception as error:
        if (found := file.version()) != version:
            raise _changed(file, version, found) from error
        raise
    if (found := file.version()) != version:
        raise _changed(file, version, found)


def _changed(file: CorpusFile, expected: FileVersion, found: FileVersion) -> CorpusError:
    return CorpusError(
        str(file),
        expected=f"a file that nobody changes while it is read, of {expected}",
        found=str(found),
        next_step="Run the same command again when the file is complete. If it was hashed already, "
        "the output is of the old one: bring that back, or pass another --output.",
    )
