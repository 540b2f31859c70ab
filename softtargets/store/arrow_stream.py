"""The messages of an Arrow stream, looked at before anything in them is unpacked."""

from __future__ import annotations

import struct

import pyarrow as pa

_HEADER = 2
"""Field of a message: what it carries."""
_BATCH_OF_DICTIONARY, _COMPRESSION = 1, 3


def check_stream(source: pa.NativeFile) -> None:
    """Check that a stream's buffers are as they are in memory, and so no larger than the file.

    Raises:
        ValueError: some are compressed, or a message is broken.
        pyarrow.ArrowException: the stream cannot be read.
    """
    for message in pa.ipc.MessageReader.open_stream(source):
        try:
            is_packed = _is_compressed(memoryview(message.metadata).cast("B"), message.type)
        except struct.error as error:
            raise ValueError("a message that is cut off") from error
        if is_packed:
            raise ValueError("compressed buffers; write the file without, or as Parquet")


def _is_compressed(metadata: memoryview, kind: str) -> bool:
    (root,) = struct.unpack_from("<I", metadata)
    batch = _table(metadata, root, _HEADER)
    if kind == "dictionary":
        batch = _table(metadata, batch, _BATCH_OF_DICTIONARY)
    elif kind != "record batch":
        return False
    return _field(metadata, batch, _COMPRESSION) > 0


def _table(metadata: memoryview, table: int, index: int) -> int:
    """Return where a table that a field points to begins."""
    place = _field(metadata, table, index)
    if place == 0:
        raise ValueError("a message without content")
    (offset,) = struct.unpack_from("<I", metadata, place)
    return int(place + offset)


def _field(metadata: memoryview, table: int, index: int) -> int:
    """Return where a field of a flatbuffer's table is; 0 if it is not there."""
    (back,) = struct.unpack_from("<i", metadata, table)
    places = table - back
    (size,) = struct.unpack_from("<H", metadata, places)
    at = 4 + 2 * index
    if at + 2 > size:
        return 0
    (offset,) = struct.unpack_from("<H", metadata, places + at)
    return int(table + offset) if offset else 0
