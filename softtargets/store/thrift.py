"""Structures of Thrift's compact protocol, in which Parquet writes the headers of its pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_DEEPEST = 8
_VARINT_BYTES = 10


class Compact:
    """Reads structures from bytes that anybody may have written.

    Raises:
        ValueError: the bytes end too early, or are no such structure.
    """

    def __init__(self, content: memoryview, start: int) -> None:
        self._content = content
        self.position = start
        """Where the next structure begins."""

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Return the fields of a structure by their ids; binary ones and maps are skipped."""
        if depth > _DEEPEST:
            raise ValueError("a page header whose parts are nested too deeply")
        fields: dict[int, Any] = {}
        field_id = 0
        while (head := self._byte()) & 15:
            field_id = field_id + (head >> 4) if head >> 4 else self._zigzag()
            fields[field_id] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == 12:
            return self.struct(depth + 1)
        readers: dict[int, Callable[[], Any]] = {
            3: self._byte,
            4: self._zigzag,
            5: self._zigzag,
            6: self._zigzag,
            7: lambda: self._skip(8),
            8: lambda: self._skip(self.varint()),
        }
        if kind not in readers:
            raise ValueError(f"a page header with a field of kind {kind}")
        return readers[kind]()

    def _byte(self) -> int:
        if self.position >= len(self._content):
            raise ValueError("a page header that is cut off")
        self.position += 1
        return self._content[self.position - 1]

    def varint(self) -> int:
        """Return the next number, in groups of seven bits."""
        value = 0
        for place in range(_VARINT_BYTES):
            byte = self._byte()
            value |= (byte & 127) << 7 * place
            if byte < 128:
                return value
        raise ValueError("a page header with a number of more than 64 bits")

    def _zigzag(self) -> int:
        value = self.varint()
        return value >> 1 ^ -(value & 1)

    def _skip(self, num_bytes: int) -> None:
        self.position += num_bytes
        if self.position > len(self._content):
            raise ValueError("a page header that is cut off")
