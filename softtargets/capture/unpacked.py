"""What files become when they are unpacked, and how much of that they are trusted with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from softtargets.capture.corpus_file import CorpusFile
from softtargets.limits import Limit

UNPACKED_LIMIT = Limit(
    variable="SOFTTARGETS_MAX_CORPUS_BYTES", default=1 << 24, unit="unpacked bytes"
)
"""Of files that grow very much when they are unpacked."""
_PIECE_BYTES = 1 << 20


@dataclass(slots=True)
class Unpacked:
    """Counts what files have become."""

    file_bytes: int = 0
    num_bytes: int = 0
    where: str = ""

    def add_file(self, file: CorpusFile) -> None:
        """Go on with a file."""
        self.file_bytes += file.num_bytes
        self.where = str(file)

    def add(self, num_bytes: int) -> None:
        """Count bytes of the file's content.

        Raises:
            LimitError: it is more than the files are trusted with.
        """
        self.num_bytes += num_bytes
        UNPACKED_LIMIT.check_growth(self.where, self.file_bytes, self.num_bytes)

    def count_rest(self, read: Callable[[int], bytes]) -> int:
        """Return how many bytes come before the end that a reader stops at, and forget them.

        Raises:
            LimitError: they are more than the files are trusted with.
        """
        num_bytes = 0
        while piece := read(_PIECE_BYTES):
            num_bytes += len(piece)
            self.add(len(piece))
            if piece[-1:] == b"\n" and len(piece) < _PIECE_BYTES:
                break
        return num_bytes
