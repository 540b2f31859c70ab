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
_BITS = {I16: 16, I32: 32, I64: 64}


class Compact:
    """Reads structures from bytes that anybody may have written.

    What it reads is what Arrow reads: numbers wrap as in C, and nothing may be there twice.

    Raises:
        ValueError: the bytes end too early, or are no such structure.
    """

    def __init__(self, content: memoryview, start: int = 0) -> None:
        self._content = content
        self._end = len(content)
        self._parts_left = _MOST_PARTS
        self.position = start
        """Where the next structure begins."""

    def struct(self, depth: int = 0) -> Fields:
        """Return the next structure."""
        self._enter(depth)
        fields: Fields = {}
        numbers: set[int] = set()
        number = 0
        while kind := (head := self._byte()) & 15:
            number = number + (head >> 4) if head >> 4 else self._number()
            if number in numbers:
                raise ValueError("a structure with a field twice")
            numbers.add(number)
            if kind in (TRUE, FALSE):
                fields[number, TRUE] = kind == TRUE
            else:
                fields[number, kind] = self._value(kind, depth)
        return fields

    def _number(self) -> int:
        """Return a field's number, where it is not told by its distance from the one before."""
        return self._zigzag(16)

    def _enter(self, depth: int) -> None:
        self._parts_left -= 1
        if depth > _DEEPEST or self._parts_left < 0:
            raise ValueError("a structure of too many parts")

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _BITS:
            return self._zigzag(_BITS[kind])
        if kind in (TRUE, FALSE, BYTE):
            return self._byte()
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
        if size > self._end - self.position:
            raise ValueError("a list that is cut off")
        return [self._value(head & 15, depth + 1) for _ in range(size)]

    def _map(self, depth: int) -> None:
        self._enter(depth)
        size = self._varint(32)
        if size > self._end - self.position:
            raise ValueError("a map that is cut off")
        kinds = self._byte() if size else 0
        for _ in range(size):
            self._value(kinds >> 4, depth + 1)
            self._value(kinds & 15, depth + 1)

    def _byte(self) -> int:
        at = self.position
        if at >= self._end:
            raise ValueError("a structure that is cut off")
        self.position = at + 1
        return self._content[at]

    def _varint(self, bits: int) -> int:
        byte = self._byte()
        value, shift = byte & 127, 0
        while byte >= 128:
            shift += 7
            if shift > _VARINT_BITS:
                raise ValueError("a number of more than 64 bits")
            byte = self._byte()
            value |= (byte & 127) << shift
        return value & ((1 << bits) - 1)

    def _zigzag(self, bits: int) -> int:
        value = self._varint(bits)
        return value >> 1 ^ -(value & 1)

    def _skip(self, num_bytes: int) -> memoryview:
        self.position += num_bytes
        if self.position > self._end:
            raise ValueError("a structure that is cut off")
        return self._content[self.position - num_bytes : self.position]
