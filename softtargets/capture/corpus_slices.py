"""Slices of a corpus of files, which several processes can read apart from each other.

A slice is some files that follow each other, or some row groups of a large Parquet file. A `.jsonl`
or `.txt` file is in one slice as a whole: which line a document stands on is known only to whoever
has read those before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from softtargets.capture.corpus_file import CorpusFile
from softtargets.capture.input_files import file_errors
from softtargets.capture.parquet_parts import group_rows

_GROWTH = 8
"""Times the size of compressed files that their content is taken to have."""
_PACKED = (".gz", ".zst", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePart:
    """A file, or some row groups of one."""

    file: CorpusFile
    content_bytes: int = 0
    """About the size of its content."""
    row_groups: tuple[int, ...] | None = None
    """None for all of the file."""
    first_row: int = 0
    """Which row of the file is the first of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSlice:
    """Parts of files that are read one after the other."""

    parts: tuple[FilePart, ...]
    bytes_before: int
    """Size of the files before them."""

    def describe(self) -> list[list[int] | str]:
        """Return which parts these are, wherever the files lie: names, or row groups."""
        return [
            part.file.name if part.row_groups is None else list(part.row_groups)
            for part in self.parts
        ]


def content_bytes(file: CorpusFile) -> int:
    """Return about how large the content of a file is."""
    return file.num_bytes * (_GROWTH if PurePosixPath(file.name).suffix in _PACKED else 1)


def cut_files(files: Sequence[CorpusFile], slice_bytes: int) -> list[CorpusSlice]:
    """Return the slices of files; each ends with the part that reaches a size of content.

    Raises:
        CorpusError, StoreError: a file cannot be read.
    """
    slices: list[CorpusSlice] = []
    parts: list[FilePart] = []
    own_bytes = bytes_before = file_bytes = 0
    for file in files:
        with file_errors(file):
            for part in _parts(file, slice_bytes):
                if not parts:
                    bytes_before = file_bytes
                parts.append(part)
                own_bytes += part.content_bytes
                if own_bytes >= slice_bytes:
                    slices.append(CorpusSlice(parts=tuple(parts), bytes_before=bytes_before))
                    parts, own_bytes = [], 0
            file_bytes += file.num_bytes
    if parts or not slices:
        slices.append(CorpusSlice(parts=tuple(parts), bytes_before=bytes_before))
    return slices


def _parts(file: CorpusFile, slice_bytes: int) -> Iterator[FilePart]:
    size = content_bytes(file)
    if PurePosixPath(file.name).suffix == ".parquet" and size > slice_bytes:
        yield from _row_groups(file, size, slice_bytes)
    else:
        yield FilePart(file=file, content_bytes=size)


def _row_groups(file: CorpusFile, size: int, slice_bytes: int) -> Iterator[FilePart]:
    """Yield the row groups of a file, as many at a time as have a size together."""
    num_rows = group_rows(file)
    groups: list[int] = []
    first_row = row = 0
    for group, rows in enumerate(num_rows):
        groups.append(group)
        row += rows
        own_bytes = size * (row - first_row) // max(1, sum(num_rows))
        if own_bytes >= slice_bytes or group == len(num_rows) - 1:
            yield FilePart(
                file=file, content_bytes=own_bytes, row_groups=tuple(groups), first_row=first_row
            )
            groups, first_row = [], row


def whole(files: Iterable[CorpusFile]) -> CorpusSlice:
    """Return all of some files."""
    return CorpusSlice(parts=tuple(FilePart(file=file) for file in files), bytes_before=0)
