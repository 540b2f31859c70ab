"""What it takes to read a Parquet file, from the headers of its pages, before it is read.

A footer can say anything: pyarrow goes by the pages. A kilobyte of them can stand for gigabytes,
since one value may be repeated a billion times and one row may have all values of a file. So
everything here is an upper bound, found without unpacking more than a page at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.limits import Limit
from softtargets.store.parquet_rows import Rows, find_rows
from softtargets.store.thrift import Compact

PAGE_LIMIT = Limit(
    variable="SOFTTARGETS_MAX_PAGE_BYTES", default=1 << 28, unit="bytes of unpacked pages"
)
"""Of the largest pages of all columns that are read, which are in memory together."""

FOOTER_LIMIT = Limit(variable="SOFTTARGETS_MAX_FOOTER_BYTES", default=1 << 23, unit="bytes")

_SMALL_BYTES = 1 << 22
"""A column chunk of fewer bytes may be one row, as far as memory goes."""
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}
_NARROW = {"INT_8": 1, "UINT_8": 1, "INT_16": 2, "UINT_16": 2}
_CODECS = {
    "SNAPPY": "snappy",
    "GZIP": "gzip",
    "BROTLI": "brotli",
    "ZSTD": "zstd",
    "LZ4": "lz4_raw",
    "LZ4_RAW": "lz4_raw",
}
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_HEADERS = {_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}
"""The field of a page's header that has what only its kind has."""
_RLE, _DELTA_BYTE_ARRAY = 3, 7
_DICTIONARY_CODES = (2, 8)
_VALUE_BYTES = 16
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


@dataclass(frozen=True, slots=True)
class _Page:
    kind: int
    num_values: int
    encoding: int
    num_bytes: int
    """Unpacked."""
    body: memoryview
    header: dict[int, Any]


def check_footer(path: Path) -> None:
    """Check that a Parquet file's footer is small enough to be parsed.

    Raises:
        LimitError: it is not.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        FOOTER_LIMIT.check(f"{path}, footer", min(size, int.from_bytes(file.read(4), "little")))


def declared_bytes(metadata: pq.FileMetaData, names: Sequence[str]) -> int:
    """Return how many bytes of numbers a footer says that some columns have."""
    return sum(
        max(0, metadata.row_group(group).column(index).num_values) * width
        for index in _chosen(metadata, names)
        if (width := _width(metadata.schema.column(index)))
        for group in range(metadata.num_row_groups)
    )


def column_sizes(
    path: Path, metadata: pq.FileMetaData, names: Sequence[str]
) -> dict[str, ColumnSize]:
    """Return what reading some columns takes; a column of structures is the sum of its parts.

    Raises:
        ValueError: the pages are not what the footer says.
        LimitError: pages unpack to more than is allowed.
    """
    chosen = _chosen(metadata, names)
    leaves = {index: ColumnSize() for index in chosen}
    _add_chunks(path, memoryview(np.memmap(path, np.uint8, "r").data), metadata, leaves)
    sizes = {name: ColumnSize() for name in names}
    for index, name in chosen.items():
        sizes[name].num_bytes += leaves[index].num_bytes
        sizes[name].row_bytes += leaves[index].row_bytes
    return sizes


def _chosen(metadata: pq.FileMetaData, names: Sequence[str]) -> dict[int, str]:
    """Return which columns of a file belong to which name."""
    paths = {index: metadata.schema.column(index).path for index in range(metadata.num_columns)}
    return {
        index: name
        for index, path in paths.items()
        for name in names
        if path == name or path.startswith(f"{name}.")
    }


def _width(column: pq.ColumnSchema) -> int:
    """Return how many bytes a value takes; of a text, beside its content."""
    if column.physical_type == "BYTE_ARRAY":
        return _VALUE_BYTES
    fixed = _WIDTHS.get(column.physical_type, column.length)
    return int(_NARROW.get(column.converted_type, fixed))


def _add_chunks(
    path: Path, view: memoryview, metadata: pq.FileMetaData, leaves: dict[int, ColumnSize]
) -> None:
    read_bytes = 0
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for index, size in leaves.items():
            chunk = row_group.column(index)
            read_bytes += max(0, chunk.total_compressed_size)
            if read_bytes > len(view):
                raise ValueError("column chunks that overlap")
            where = f"{path}, row group {group}, column {chunk.path_in_schema}"
            size.add(_ChunkSize(where, view, chunk, metadata.schema.column(index)).measure())
            PAGE_LIMIT.check(where, sum(one.page_bytes for one in leaves.values()))


class _ChunkSize:
    """Measures a column chunk page by page."""

    def __init__(
        self, where: str, view: memoryview, chunk: pq.ColumnChunkMetaData, column: pq.ColumnSchema
    ) -> None:
        self._where = where
        self._view = view
        self._chunk = chunk
        self._depth = column.max_repetition_level
        self._is_text = column.physical_type == "BYTE_ARRAY"
        self._width = _width(column)
        self._entry_bytes = 0
        """Of the longest text in the dictionary."""
        self._size = ColumnSize()
        self._row_bytes = 0
        """Of the row that no page has ended yet."""

    def measure(self) -> ColumnSize:
        """Return the size of the column chunk.

        Raises:
            ValueError: the pages are not what the footer says.
            LimitError: a page unpacks to more than is allowed.
        """
        num_values = 0
        for page in self._pages():
            if page.kind == _DICTIONARY:
                self._add_dictionary(page)
            else:
                num_values += page.num_values
                self._size.page_bytes = max(self._size.page_bytes, page.num_bytes)
                self._add_values(page)
        if num_values < self._chunk.num_values:
            raise ValueError(
                f"{num_values:,} values of the {self._chunk.num_values:,} of the footer"
            )
        self._close_row()
        return self._size

    def _pages(self) -> Iterator[_Page]:
        chunk = self._chunk
        start = chunk.data_page_offset
        if chunk.has_dictionary_page and 0 < (chunk.dictionary_page_offset or 0) < start:
            start = chunk.dictionary_page_offset
        stop = start + chunk.total_compressed_size
        if not 0 <= start <= stop <= len(self._view):
            raise ValueError("a column chunk outside of the file")
        left = chunk.num_values
        while start < stop and left > 0:
            page, start = self._page(start, stop)
            PAGE_LIMIT.check(self._where, page.num_bytes)
            if page.kind != _DICTIONARY:
                left -= page.num_values
            if left < 0:
                raise ValueError(
                    f"pages of more than the {chunk.num_values:,} values of the footer"
                )
            yield page

    def _page(self, start: int, stop: int) -> tuple[_Page, int]:
        compact = Compact(self._view[:stop], start)
        header = compact.struct()
        kind, num_bytes, stored = (header.get(one, -1) for one in (1, 2, 3))
        own = header.get(_HEADERS.get(kind, -1))
        if not isinstance(own, dict):
            raise ValueError(f"a page of kind {kind}")
        num_values, encoding = own.get(1, -1), own.get(4 if kind == _DATA_V2 else 2, -1)
        end = compact.position + stored
        if min(num_bytes, stored, num_values) < 0 or end > stop:
            raise ValueError("a page that its column chunk does not hold")
        body = self._view[compact.position : end]
        return _Page(kind, num_values, encoding, num_bytes, body, own), end

    def _add_dictionary(self, page: _Page) -> None:
        page_bytes = page.num_bytes + page.num_values * _VALUE_BYTES
        PAGE_LIMIT.check(self._where, page_bytes)
        self._size.page_bytes = max(self._size.page_bytes, page_bytes)
        if self._is_text:
            self._entry_bytes = _longest_text(self._unpacked(page), page.num_values)

    def _add_values(self, page: _Page) -> None:
        value_bytes, page_bytes = self._width, 0
        if self._is_text and page.encoding in _DICTIONARY_CODES:
            value_bytes += self._entry_bytes
        elif self._is_text and page.encoding == _DELTA_BYTE_ARRAY:
            # Each text may repeat the one before it and go on.
            value_bytes += page.num_bytes
        elif self._is_text:
            page_bytes = page.num_bytes
        self._size.num_bytes += page.num_values * value_bytes + page_bytes
        if self._depth == 0:
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
            levels = page.body[: max(0, page.header.get(6, 0))]
        elif page.header.get(4) == _RLE:
            content = self._unpacked(page)
            levels = content[4 : 4 + int.from_bytes(content[:4], "little")]
        else:
            return None
        is_small = page.num_values * self._width <= _SMALL_BYTES
        width = self._depth.bit_length()
        return find_rows(bytes(levels), width, page.num_values, first_alone=is_small)

    def _unpacked(self, page: _Page) -> memoryview:
        name = _CODECS.get(self._chunk.compression)
        if name is None:
            return page.body
        unpacked = pa.decompress(page.body, page.num_bytes, codec=name)
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
