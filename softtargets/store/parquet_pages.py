"""What it takes to read a Parquet file, from the headers of its pages, before it is read.

A footer can say anything: pyarrow goes by the pages. A kilobyte of them can stand for gigabytes,
since one value may be repeated a billion times and one row may have all values of a file. So
everything here is an upper bound, found without unpacking more than a page at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from softtargets.limits import Limit
from softtargets.store.parquet_footer import Chunk, Footer, Leaf
from softtargets.store.parquet_rows import Rows, find_rows
from softtargets.store.thrift import I32, STRUCT, Compact, Fields

PAGE_LIMIT = Limit(
    variable="SOFTTARGETS_MAX_PAGE_BYTES", default=1 << 28, unit="unpacked bytes at a time"
)
"""Of the largest pages of all columns that are read, which are in memory together."""

ROW_LIMIT = Limit(
    variable="SOFTTARGETS_MAX_ROW_BYTES", default=1 << 24, unit="bytes of a column in one row"
)

_SMALL_BYTES = 1 << 22
"""A column chunk of fewer bytes may be one row, as far as memory goes."""
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_HEADERS = {_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}
"""The field of a page's header that has what only its kind has."""
_RLE, _DELTA_BYTE_ARRAY = 3, 7
_DICTIONARY_CODES = (2, 8)
_TEXT_BYTES = 16
"""What a text or a dictionary's entry takes beside its content."""


@dataclass(slots=True)
class ColumnSize:
    """Upper bounds for a column."""

    num_bytes: int = 0
    """Of all values."""
    row_bytes: int = 0
    """Of the values of one row."""
    page_bytes: int = 0
    """Of one page, or of a dictionary."""

    def add(self, other: ColumnSize) -> None:
        """Take in the column's part in another row group."""
        self.num_bytes += other.num_bytes
        self.row_bytes = max(self.row_bytes, other.row_bytes)
        self.page_bytes = max(self.page_bytes, other.page_bytes)


class ParquetPages:
    """The pages of a Parquet file.

    Args:
        path: of the file, or of a copy that has its footer and what is measured.
        where: what messages call it, if not by its path.

    Raises:
        OSError, ValueError: there is no such file, or it is none.
        LimitError: its footer is larger than it is trusted to be.
    """

    def __init__(self, path: Path, where: str | None = None) -> None:
        self._where = where or str(path)
        self._content = memoryview(np.memmap(path, np.uint8, "r").data)
        self.footer = Footer.read(self._content, self._where)

    def declared_bytes(self, names: Sequence[str]) -> int:
        """Return how many bytes of numbers the footer says that some columns have."""
        leaves = self.footer.leaves
        return sum(
            max(0, group[index].num_values) * leaves[index].width
            for index in self._chosen(names)
            for group in self.footer.groups
        )

    def ranges(self, names: Sequence[str], group: int) -> list[tuple[int, int]]:
        """Return where some columns of a row group are.

        Raises:
            ValueError: column chunks are outside of the file, or those of all row groups overlap.
        """
        chosen = self._chosen(names)
        self._check_chunks(chosen)
        chunks = [self.footer.groups[group][index] for index in chosen]
        return [(chunk.start, chunk.stop) for chunk in chunks]

    def sizes(
        self, names: Sequence[str], row_groups: Sequence[int] | None = None
    ) -> dict[str, ColumnSize]:
        """Return what reading some columns takes; a column of structures is the sum of its parts.

        Args:
            names: of the columns.
            row_groups: that are read; None for all.

        Raises:
            ValueError: the pages are not what the footer says.
            LimitError: pages unpack to more than they are trusted with.
        """
        chosen = self._chosen(names)
        self._check_chunks(chosen)
        leaves = {index: ColumnSize() for index in chosen}
        for number in range(len(self.footer.groups)) if row_groups is None else row_groups:
            for index, size in leaves.items():
                leaf, chunk = self.footer.leaves[index], self.footer.groups[number][index]
                where = f"{self._where}, row group {number}, column {leaf.path}"
                size.add(_ChunkPages(where, self._content, chunk, leaf).measure())
                PAGE_LIMIT.check(where, sum(one.page_bytes for one in leaves.values()))
        sizes = {name: ColumnSize() for name in names}
        for index, name in chosen.items():
            sizes[name].num_bytes += leaves[index].num_bytes
            sizes[name].row_bytes += leaves[index].row_bytes
            sizes[name].page_bytes += leaves[index].page_bytes
        return sizes

    def _check_chunks(self, chosen: Iterable[int]) -> None:
        """Check where the column chunks of all row groups are: a file holds each byte once."""
        read_bytes = 0
        for index in chosen:
            for group in self.footer.groups:
                chunk = group[index]
                if not 0 <= chunk.start <= chunk.stop <= len(self._content):
                    raise ValueError("a column chunk outside of the file")
                read_bytes += chunk.stop - chunk.start
                if read_bytes > len(self._content):
                    raise ValueError("column chunks that overlap")

    def _chosen(self, names: Sequence[str]) -> dict[int, str]:
        """Return which columns of the file belong to which name."""
        return {
            index: name
            for index, leaf in enumerate(self.footer.leaves)
            for name in names
            if leaf.path == name or leaf.path.startswith(f"{name}.")
        }


@dataclass(frozen=True, slots=True)
class _Page:
    kind: int
    num_values: int
    encoding: int
    num_bytes: int
    """Unpacked."""
    body: memoryview
    header: Fields


class _ChunkPages:
    """Measures a column chunk page by page."""

    def __init__(self, where: str, content: memoryview, chunk: Chunk, leaf: Leaf) -> None:
        self._where = where
        self._content = content
        self._chunk = chunk
        self._leaf = leaf
        self._entry_bytes = 0
        """Of the longest text in the dictionary."""
        self._size = ColumnSize()
        self._row_bytes = 0
        """Of the row that no page has ended yet."""

    def measure(self) -> ColumnSize:
        """Return the size of the column chunk.

        Raises:
            ValueError: the pages are not what the footer says.
            LimitError: a page unpacks to more than it is trusted with.
        """
        num_values = 0
        for page in self._pages():
            PAGE_LIMIT.check(self._where, page.num_bytes)
            page_bytes = page.num_bytes
            if page.kind == _DICTIONARY:
                page_bytes += page.num_values * _TEXT_BYTES
                PAGE_LIMIT.check(self._where, page_bytes)
                if self._leaf.is_text:
                    self._entry_bytes = _longest_text(self._unpacked(page), page.num_values)
            else:
                num_values += page.num_values
                if num_values > self._chunk.num_values:
                    raise ValueError("pages of more values than the footer says")
                self._add_values(page)
            self._size.page_bytes = max(self._size.page_bytes, page_bytes)
        if num_values != self._chunk.num_values:
            raise ValueError("pages of fewer values than the footer says")
        self._close_row()
        return self._size

    def _pages(self) -> Iterator[_Page]:
        start, stop = self._chunk.start, self._chunk.stop
        while start < stop:
            page, start = self._page(start, stop)
            yield page

    def _page(self, start: int, stop: int) -> tuple[_Page, int]:
        compact = Compact(self._content[:stop], start)
        header = compact.struct()
        kind, num_bytes, stored = (header.get((one, I32), -1) for one in (1, 2, 3))
        own = header.get((_HEADERS.get(kind, -1), STRUCT))
        if own is None:
            raise ValueError(f"a page of kind {kind}")
        num_values = own.get((1, I32), -1)
        encoding = own.get((4 if kind == _DATA_V2 else 2, I32), -1)
        end = compact.position + stored
        if min(num_bytes, stored, num_values) < 0 or end > stop:
            raise ValueError("a page that its column chunk does not hold")
        body = self._content[compact.position : end]
        return _Page(kind, num_values, encoding, num_bytes, body, own), end

    def _add_values(self, page: _Page) -> None:
        value_bytes, page_bytes = self._leaf.width, 0
        if self._leaf.is_text and page.encoding in _DICTIONARY_CODES:
            value_bytes = _TEXT_BYTES + self._entry_bytes
        elif self._leaf.is_text and page.encoding == _DELTA_BYTE_ARRAY:
            # Each text may repeat the one before it and go on.
            value_bytes = _TEXT_BYTES + page.num_bytes
        elif self._leaf.is_text:
            value_bytes, page_bytes = _TEXT_BYTES, page.num_bytes
        self._size.num_bytes += page.num_values * value_bytes + page_bytes
        if self._leaf.repetition == 0:
            self._row_bytes = value_bytes + page_bytes
            self._close_row()
            return
        self._row_bytes += page_bytes
        is_small = self._chunk.num_values * value_bytes <= _SMALL_BYTES
        rows = None if is_small else self._rows(page)
        if rows is None:
            self._row_bytes += page.num_values * value_bytes
            return
        for num_values in (rows.first, rows.longest):
            self._row_bytes += num_values * value_bytes
            self._close_row()
            self._row_bytes = page_bytes
        self._row_bytes += (page.num_values - rows.last) * value_bytes

    def _close_row(self) -> None:
        self._size.row_bytes = max(self._size.row_bytes, self._row_bytes)
        self._row_bytes = 0

    def _rows(self, page: _Page) -> Rows | None:
        """Return where rows begin in a page; None where it is not known."""
        if page.kind == _DATA_V2:
            levels = page.body[: max(0, page.header.get((6, I32), 0))]
        elif page.header.get((4, I32)) == _RLE:
            content = self._unpacked(page)
            levels = content[4 : 4 + int.from_bytes(content[:4], "little")]
        else:
            return None
        is_small = page.num_values * self._leaf.width <= _SMALL_BYTES and not self._leaf.is_text
        width = self._leaf.repetition.bit_length()
        return find_rows(bytes(levels), width, page.num_values, first_alone=is_small)

    def _unpacked(self, page: _Page) -> memoryview:
        if self._chunk.codec is None:
            return page.body
        unpacked = pa.decompress(page.body, page.num_bytes, codec=self._chunk.codec)
        return memoryview(unpacked).cast("B")


def _longest_text(content: memoryview, num_values: int) -> int:
    """Return the length of the longest of some texts, each after its length in four bytes."""
    longest = start = 0
    for _ in range(num_values):
        length = int.from_bytes(content[start : start + 4], "little")
        start += 4 + length
        if start > len(content):
            raise ValueError("a dictionary that is cut off")
        longest = max(longest, length)
    return longest
