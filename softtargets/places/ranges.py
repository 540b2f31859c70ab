"""An open file of which ranges are read, each checked on arrival."""

from __future__ import annotations

from io import BytesIO
from typing import BinaryIO, Protocol

from softtargets.errors import CorruptionError, error_text
from softtargets.hashes import checksum

FOOTER = "footer"
"""What the part of a shard after its last row group is called."""


class RangeFile(Protocol):
    """An open file, of which ranges are read."""

    where: str

    def read_into(self, piece: memoryview, offset: int, xxh3: str, part: str) -> None:
        """Read the range that begins at `offset` and is as long as `piece`, and check it.

        Raises:
            CorruptionError: its checksum is another; `part` is what the message calls it.
            StoreError: it cannot be read.
        """

    def close(self) -> None:
        """Close the file."""


class PlainFile:
    """A file of this machine, or one in memory."""

    def __init__(self, where: str, file: BinaryIO) -> None:
        self.where = where
        self._file = file

    @classmethod
    def of_content(cls, where: str, content: bytes | None, num_bytes: int) -> PlainFile:
        """Return a file that was read as a whole.

        Raises:
            CorruptionError: there is none, or it is of another size.
        """
        if content is None or len(content) != num_bytes:
            raise wrong_size(where, num_bytes, None if content is None else len(content))
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
    )


def wrong_size(where: str, expected: int, found: int | None) -> CorruptionError:
    """Return the error of a file that is missing, or of another size than in the manifest."""
    return CorruptionError(
        where,
        expected=f"{expected:,} bytes",
        found="no file" if found is None else f"{found:,} bytes",
    )


def check_size(where: str, expected: int, found: int | None) -> None:
    """Check that a file is there and of its size in the manifest.

    Raises:
        CorruptionError: it is not.
    """
    if found != expected:
        raise wrong_size(where, expected, found)
