"""Texts of a shard that windows share: read once each, and spelled out when that is affordable."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from softtargets.store.pages import UNPACKED_BYTES
from softtargets.store.schema import field_of
from softtargets.targets import Column


def with_plain_texts(table: pa.Table, columns: Sequence[Column], where: str) -> pa.Table:
    """Return a table with the texts of some columns spelled out; equal ones were in memory once.

    Raises:
        LimitError: that takes more memory than it is trusted with.
    """
    chunks = {column.name: table.column(column.name).chunks for column in columns}
    num_bytes = 0
    for chunk in (chunk for own in chunks.values() for chunk in own):
        texts = _texts(chunk)
        lengths = pc.binary_length(texts.dictionary).cast(pa.int64())
        num_bytes += pc.sum(lengths.take(texts.indices)).as_py() or 0
    UNPACKED_BYTES.check(where, num_bytes)
    for column in columns:
        plain = [_spelled_out(chunk, column) for chunk in chunks[column.name]]
        index, field = table.column_names.index(column.name), field_of(column)
        table = table.set_column(index, field, pa.chunked_array(plain, field.type))
    return table


def _texts(chunk: pa.Array) -> pa.DictionaryArray:
    return chunk.values if pa.types.is_list(chunk.type) else chunk


def _spelled_out(chunk: pa.Array, column: Column) -> pa.Array:
    texts = _texts(chunk).dictionary_decode()
    if column.rows == "window":
        return texts
    return pa.ListArray.from_arrays(chunk.offsets, texts, type=field_of(column).type)
