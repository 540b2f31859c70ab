"""What a row group of a Parquet file takes in memory, told by its pages before any is unpacked.

The footer cannot tell: its sizes are what somebody wrote there, and a run of equal values takes a
few bytes however long it is. What pyarrow allocates follows the headers of the pages, which stand
before them and are no part of what is compressed. So they are read here first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import pyarrow.parquet as pq

from softtargets.errors import CorruptionError
from softtargets.limits import Limit
from softtargets.store.thrift import I32, STRUCT, Compact, Fields

UNPACKED_BYTES = Limit(
    variable="SOFTTARGETS_MAX_UNPACKED_BYTES", default=96 << 20, unit="bytes when it is unpacked"
)
"""Of what is read at once, if that is much more than it takes in its file."""

_USUAL_RATIO = 8
"""What unpacks to no more than so many times its size needs no limit."""
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_LEVEL_BYTES = 4
"""Two numbers of 16 bits say where in its list a value stands."""
_POINTER_BYTES = 8
"""pyarrow keeps the place of each value of a fixed size while it reads them."""
TEXT_BYTES = 64
"""A Python string with its place in a list, without its characters."""
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_DICTIONARY_ENCODINGS = (2, 8)
_DELTA_BYTE_ARRAY = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """What the header of a page says."""

    start: int
    """Where its content begins."""
    kind: int
    unpacked_bytes: int
    packed_bytes: int
    num_values: int
    encoding: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnPages:
    """The pages of a column in a row group."""

    packed_bytes: int
    num_values: int
    _pages: Sequence[_Page]
    _width: int | None
    """Of a value in bytes; None for texts."""

    @property
    def largest_page(self) -> int:
        """Return how many bytes the largest page takes; no text in it is longer."""
        return max((page.unpacked_bytes for page in self._pages), default=0)

    def unpacked_bytes(self, *, is_shared: bool = False) -> int:
        """Return how many bytes the values take at most, with the pages themselves.

        Args:
            is_shared: equal texts are in memory once, as pyarrow's `read_dictionary` does it.
        """
        width = TEXT_BYTES if self._width is None else self._width
        dictionaries = [page for page in self._pages if page.kind == _DICTIONARY]
        total = sum(page.unpacked_bytes for page in self._pages)
        total += sum(page.num_values for page in dictionaries) * max(width, TEXT_BYTES)
        longest = 0
        if self._width is None and not is_shared:
            longest = max((page.unpacked_bytes for page in dictionaries), default=0)
        for page in self._pages:
            if page.kind != _DICTIONARY:
                own = width + _LEVEL_BYTES
                if page.encoding == _DELTA_BYTE_ARRAY:
                    # A text may repeat all of the one before it.
                    own += page.unpacked_bytes
                elif page.encoding in _DICTIONARY_ENCODINGS:
                    own += longest
                total += page.num_values * own
        return total


def check_unpacked(
    content: memoryview,
    footer: pq.FileMetaData,
    groups: Mapping[int, range],
    columns: Collection[str],
    where: str,
    *,
    shared_texts: Collection[str] = (),
) -> None:
    """Check that some columns, read at once, take no more memory than they are trusted with.

    Args:
        content: of the file.
        footer: of the file.
        groups: the numbers of row groups, and which bytes of the file they are.
        columns: names of columns.
        where: what messages call the row groups.
        shared_texts: columns whose equal texts are to be in memory once.

    Raises:
        LimitError: they take more; the message says how to allow it.
        CorruptionError: the pages are not where the footer says, or hold another number of values.
    """
    packed = unpacked = 0
    for name, pages in column_pages(content, footer, groups, columns, where):
        packed += pages.packed_bytes
        unpacked += pages.unpacked_bytes(is_shared=name in shared_texts)
    if unpacked > _USUAL_RATIO * packed:
        UNPACKED_BYTES.check(where, unpacked)


def column_pages(
    content: memoryview,
    footer: pq.FileMetaData,
    groups: Mapping[int, range],
    columns: Collection[str],
    where: str,
) -> Iterator[tuple[str, ColumnPages]]:
    """Yield the pages of columns, with the column's name; the arguments are `check_unpacked`'s.

    Raises:
        CorruptionError: the pages are not where the footer says, or hold another number of values.
    """
    for group, place in groups.items():
        described = footer.row_group(group)
        for index in range(footer.num_columns):
            chunk = described.column(index)
            name = chunk.path_in_schema.partition(".")[0]
            if name in columns:
                leaf = footer.schema.column(index)
                num_values = chunk.num_values if leaf.max_repetition_level else described.num_rows
                pages = list(_pages(content, chunk, place, f"{where}, column {name}"))
                _check_counts(pages, {chunk.num_values, num_values}, f"{where}, column {name}")
                yield (
                    name,
                    ColumnPages(
                        packed_bytes=chunk.total_compressed_size,
                        num_values=num_values,
                        _pages=pages,
                        _width=leaf.length + _POINTER_BYTES
                        if chunk.physical_type == "FIXED_LEN_BYTE_ARRAY"
                        else _WIDTHS.get(chunk.physical_type),
                    ),
                )


def _check_counts(pages: Sequence[_Page], wanted: set[int], where: str) -> None:
    """Check that pages hold as many values as the footer says: pyarrow reads until it has them."""
    found = sum(page.num_values for page in pages if page.kind != _DICTIONARY)
    if wanted != {found}:
        raise CorruptionError(
            where,
            expected=f"pages with {' and '.join(f'{one:,}' for one in sorted(wanted))} values",
            found=f"{found:,}",
        )


def _pages(
    content: memoryview, chunk: pq.ColumnChunkMetaData, place: range, where: str
) -> Iterator[_Page]:
    """Yield the pages of a column of a row group, whose bytes are at `place`.

    Raises:
        CorruptionError: there is something else, or less.
    """
    starts = (chunk.data_page_offset, chunk.dictionary_page_offset)
    at = min(start for start in starts if start is not None)
    end = at + chunk.total_compressed_size
    if not place.start <= at <= end <= place.stop:
        raise _not_pages(where, f"bytes {at:,} to {end:,}")
    try:
        while at < end:
            page = _read_page(_Header(content[:end], at))
            at = page.start + page.packed_bytes
            if page.packed_bytes < 0 or page.unpacked_bytes < 0 or page.num_values < 0 or at > end:
                raise ValueError("a page that does not fit")
            yield page
    except (ValueError, KeyError) as error:
        raise _not_pages(where, f"{error} at byte {at:,}") from error


def _read_page(reader: _Header) -> _Page:
    header = reader.struct()
    kind = header[1, I32]
    own: Fields = header[{_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}[kind], STRUCT]
    return _Page(
        start=reader.position,
        kind=kind,
        unpacked_bytes=header[2, I32],
        packed_bytes=header[3, I32],
        num_values=own[1, I32],
        encoding=own[4 if kind == _DATA_V2 else 2, I32],
    )


def _not_pages(where: str, found: str) -> CorruptionError:
    return CorruptionError(
        where,
        expected="the pages of a Parquet column, within the row group",
        found=found,
    )


class _Header(Compact):
    """A reader of page headers, stricter than the protocol.

    A struct's fields stand by rising number, as all writers put them, and none is a list, of which
    they need none. So no header can be read in two ways.
    """

    def _number(self) -> int:
        raise ValueError("a field out of order")

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise ValueError("a list or a map")

    _list = _map = _refuse
