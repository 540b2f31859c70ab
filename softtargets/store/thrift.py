"""Structures of Thrift's compact protocol, in which Parquet writes its footer and its pages."""

from __future__ import annotations

from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
"""Kinds of values, as they are numbered in the protocol."""

Fields = dict[tuple[int, int], Any]
"""Values of a structure by number and kind, since a field of another kind is another field."""

_DEEPEST = 12
_MOST_PARTS = 1_000_000
_VARINT_BITS = 63


class Compact:
    """Reads structures from bytes that anybody may have written.

    What it reads is what Arrow reads: numbers wrap as in C, and nothing may be there twice.

    Raises:
        ValueError: the bytes end too early, or are no such structure.
    """

    def __init__(self, content: memoryview, start: int = 0) -> None:
        self._content = content
        self._parts_left = _MOST_PARTS
        self.position = start
        """Where the next structure begins."""

    def struct(self, depth: int = 0) -> Fields:
        """Return the next structure."""
        self._enter(depth)
        fields: Fields = {}
        numbers: set[int] = set()
        number = 0
        while (head := self._byte()) & 15:
            kind = head & 15
            number = number + (head >> 4) if head >> 4 else self._zigzag(16)
            if number in numbers:
                raise ValueError("a structure with a field twice")
            numbers.add(number)
            is_bool = kind in (TRUE, FALSE)
            value = kind == TRUE if is_bool else self._value(kind, depth)
            fields[number, TRUE if is_bool else kind] = value
        return fields

    def _enter(self, depth: int) -> None:
        self._parts_left -= 1
        if depth > _DEEPEST or self._parts_left < 0:
            raise ValueError("a structure of too many parts")

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (TRUE, FALSE, BYTE):
            return self._byte()
        if kind in (I16, I32, I64):
            return self._zigzag({I16: 16, I32: 32, I64: 64}[kind])
        if kind == DOUBLE:
            return self._skip(8)
        if kind == BINARY:
            return self._skip(self._varint(32))
        if kind in (LIST, SET):
            return self._list(depth)
        if kind == MAP:
            return self._map(depth)
        if kind == STRUCT:
            return self.struct(depth + 1)
        raise ValueError(f"a value of kind {kind}")

    def _list(self, depth: int) -> list[Any]:
        self._enter(depth)
        head = self._byte()
        size = head >> 4 if head >> 4 < 15 else self._varint(32)
        if size > len(self._content) - self.position:
            raise ValueError("a list that is cut off")
        return [self._value(head & 15, depth + 1) for _ in range(size)]

    def _map(self, depth: int) -> None:
        self._enter(depth)
        size = self._varint(32)
        if size > len(self._content) - self.position:
            raise ValueError("a map that is cut off")
        kinds = self._byte() if size else 0
        for _ in range(size):
            self._value(kinds >> 4, depth + 1)
            self._value(kinds & 15, depth + 1)

    def _byte(self) -> int:
        if self.position >= len(self._content):
            raise ValueError("a structure that is cut off")
        self.position += 1
        return self._content[self.position - 1]

    def _varint(self, bits: int) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value & ((1 << bits) - 1)
            shift += 7
            if shift > _VARINT_BITS:
                raise ValueError("a number of more than 64 bits")

    def _zigzag(self, bits: int) -> int:
        value = self._varint(bits)
        return value >> 1 ^ -(value & 1)

    def _skip(self, num_bytes: int) -> memoryview:
        self.position += num_bytes
        if self.position > len(self._content):
            raise ValueError("a structure that is cut off")
        return self._content[self.position - num_bytes : self.position]
