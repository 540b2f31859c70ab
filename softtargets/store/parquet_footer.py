"""The footer of a Parquet file, as far as it says where pages are.

pyarrow ends the process where a footer's histograms do not fit its schema, as soon as it is asked
about a column chunk. So files of others are looked into without it.
"""

from __future__ import annotations

from dataclasses import dataclass

from softtargets.limits import Limit
from softtargets.store.thrift import BINARY, I32, I64, LIST, STRUCT, Compact, Fields

FOOTER_LIMIT = Limit(variable="SOFTTARGETS_MAX_FOOTER_BYTES", default=1 << 22, unit="bytes")
FOOTER_END = 8
"""Of the footer's length and the magic number."""

BYTE_ARRAY = 6
_WIDTHS = {0: 1, 1: 4, 2: 8, 3: 12, 4: 4, 5: 8}
"""Bytes of a value of each physical type but texts and those of a fixed length."""
_NARROW = {11: 1, 15: 1, 12: 2, 16: 2}
"""Bytes of a value of the integers that are stored as wider ones."""
_REPEATED = 2
_CODECS = {1: "snappy", 2: "gzip", 4: "brotli", 5: "lz4_raw", 6: "zstd", 7: "lz4_raw"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A column of values."""

    path: str
    is_text: bool
    width: int
    """Bytes of a value; 0 for a text."""
    repetition: int
    """How many lists it is in."""
    definition: int
    """How many of what it is in may be empty or null, itself included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A column's part in a row group."""

    start: int
    stop: int
    num_values: int
    codec: str | None
    """As pyarrow calls it; None for values that are not compressed, or in a way not known here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """What a footer says; nothing of it needs to be true."""

    num_rows: int
    leaves: tuple[Leaf, ...]
    groups: tuple[tuple[Chunk, ...], ...]
    """Of each row group the chunk of every leaf."""

    @classmethod
    def read(cls, content: memoryview, where: str) -> Footer:
        """Read the footer of a file's content.

        Raises:
            ValueError: there is none.
            LimitError: it is larger than it is trusted to be.
        """
        fields = Compact(footer_of(content, where)).struct()
        leaves = _leaves(_list(fields, 2))
        groups = []
        for group in _list(fields, 4):
            chunks = tuple(_chunk(one) for one in _list(group, 1))
            if len(chunks) != len(leaves):
                raise ValueError(f"{len(chunks)} column chunks for {len(leaves)} columns")
            groups.append(chunks)
        return cls(num_rows=_number(fields, 3, I64), leaves=leaves, groups=tuple(groups))


def footer_of(content: memoryview, where: str) -> memoryview:
    """Return the footer in a file's content, without its length and the magic number.

    Raises:
        ValueError: there is none.
        LimitError: it is larger than it is trusted to be.
    """
    if len(content) < FOOTER_END or bytes(content[-4:]) != b"PAR1":
        raise ValueError("no Parquet file, or an encrypted one")
    size = int.from_bytes(content[-FOOTER_END:-4], "little")
    start = len(content) - FOOTER_END - size
    if start < 0:
        raise ValueError("a footer longer than the file")
    FOOTER_LIMIT.check(f"{where}, footer", size)
    return content[start:-FOOTER_END]


def check_chunks(content: memoryview) -> None:
    """Check that pyarrow can be asked about a column chunk: where it refuses, it ends the process.

    What it refuses stands in Arrow's C++: columns that are encrypted, and statistics of sizes that
    do not fit the column.

    Args:
        content: of the footer alone, without its length and the magic number.

    Raises:
        ValueError: it cannot be asked.
    """
    fields = Compact(content).struct()
    leaves = _leaves(_list(fields, 2))
    for group in _list(fields, 4):
        for leaf, chunk in zip(leaves, _list(group, 1), strict=True):
            sizes = chunk.get((3, STRUCT), {}).get((16, STRUCT), {})
            levels = ((2, leaf.repetition), (3, leaf.definition))
            histograms = ((len(sizes.get((number, LIST), ())), level) for number, level in levels)
            if any(size not in (0, level + 1) for size, level in histograms):
                raise ValueError(f"histograms that are not those of column {leaf.path}")
            if (8, STRUCT) in chunk or ((1, I64) in sizes and not leaf.is_text):
                raise ValueError(f"encryption, or sizes of texts, in column {leaf.path}")


def _list(fields: Fields, number: int) -> list[Fields]:
    found = fields.get((number, LIST))
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError("a footer without what every footer has")
    return found


def _number(fields: Fields, number: int, kind: int) -> int:
    found = fields.get((number, kind))
    if not isinstance(found, int):
        raise ValueError("a footer without what every footer has")
    return found


def _leaves(elements: list[Fields]) -> tuple[Leaf, ...]:
    """Return the columns of a schema, which lists each element before its children."""
    leaves = []
    # Of each element whose children follow: how many are left, its path and its levels.
    parents: list[tuple[int, str, int, int]] = [(1, "", 0, 0)]
    for place, element in enumerate(elements):
        while parents and parents[-1][0] == 0:
            parents.pop()
        if not parents:
            raise ValueError("a schema with more elements than it says")
        left, path, repetition, definition = parents[-1]
        parents[-1] = (left - 1, path, repetition, definition)
        if place:
            name = bytes(element.get((4, BINARY), b"")).decode("utf-8", "replace")
            path = f"{path}.{name}" if path else name
            repetition += element.get((3, I32)) == _REPEATED
            definition += element.get((3, I32), 0) != 0
        num_children = element.get((5, I32), 0)
        if num_children > 0:
            parents.append((num_children, path, repetition, definition))
        elif place:
            leaves.append(_leaf(element, path, repetition, definition))
    return tuple(leaves)


def _leaf(element: Fields, path: str, repetition: int, definition: int) -> Leaf:
    kind = _number(element, 1, I32)
    fixed = _WIDTHS.get(kind, max(0, element.get((2, I32), 0)))
    return Leaf(
        path=path,
        is_text=kind == BYTE_ARRAY,
        width=0 if kind == BYTE_ARRAY else _NARROW.get(element.get((6, I32), -1), fixed),
        repetition=repetition,
        definition=definition,
    )


def _chunk(fields: Fields) -> Chunk:
    metadata = fields.get((3, STRUCT))
    if not isinstance(metadata, dict):
        raise ValueError("a column chunk without what every one has")
    start = _number(metadata, 9, I64)
    dictionary = metadata.get((11, I64), 0)
    # The rule of Arrow, which reads from there.
    if 0 < dictionary < start:
        start = dictionary
    return Chunk(
        start=start,
        stop=start + _number(metadata, 7, I64),
        num_values=_number(metadata, 5, I64),
        codec=_CODECS.get(_number(metadata, 4, I32)),
    )
