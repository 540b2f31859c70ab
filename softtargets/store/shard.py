"""One shard: a Parquet file with a row per window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.hashes import checksum, hash_bytes
from softtargets.store.codec import encode
from softtargets.store.schema import Compression, arrow_schema, has_shared_texts, path_of
from softtargets.store.shard_table import RowGroup, ShardEntry
from softtargets.targets import TargetSchema, columns_of
from softtargets.window import Window, cut_windows

ROW_GROUP_TOKENS = 16_384
"""A row group ends with the window that reaches so many tokens: about 2 MB at k = 64."""

ROW_GROUP_WINDOWS = 1024
"""It also ends after so many windows, so that one of them is found quickly."""


def shard_path(unit: int, sha256: str = "") -> str:
    """Return where the shard of a unit lives in its store, named by its content if that is given.

    Args:
        unit: its number.
        sha256: of its content; the name has the first 16 digits.
    """
    return f"shards/unit-{unit:06d}{'-' * bool(sha256)}{sha256[:16]}.parquet"


def encode_shard(
    windows: Sequence[Window],
    targets: TargetSchema,
    fingerprint: str,
    unit: int,
    *,
    compression: Compression,
    run: Mapping[str, Any],
) -> tuple[bytes, ShardEntry]:
    """Return the bytes of a shard and its entry in the manifest.

    The bytes are a pure function of the arguments and the version of pyarrow.
    """
    schema = arrow_schema(targets, fingerprint, unit)
    sink = pa.BufferOutputStream()
    groups = list(cut_windows(windows, ROW_GROUP_TOKENS, ROW_GROUP_WINDOWS))
    with pq.ParquetWriter(
        sink,
        schema,
        compression=_codecs(targets, compression),
        compression_level=_levels(targets, compression),
        use_dictionary=[path_of(one) for one in columns_of(targets) if has_shared_texts(one)],
        column_encoding=_encodings(targets),
        write_statistics=["window_id", "source"],
        write_page_checksum=True,
    ) as writer:
        for group in groups:
            writer.write_table(encode(group, schema))
    content = sink.getvalue().to_pybytes()
    sizes = [(len(group), sum(len(window.packed) for window in group)) for group in groups]
    return content, describe_shard(content, unit, sizes, run)


def describe_shard(
    content: bytes, unit: int, sizes: Sequence[tuple[int, int]], run: Mapping[str, Any]
) -> ShardEntry:
    """Return the manifest's entry of a shard; `sizes` are its row groups' windows and positions."""
    ends = _row_group_ends(content)
    return ShardEntry(
        unit=unit,
        path=shard_path(unit),
        num_bytes=len(content),
        sha256=hash_bytes(content),
        footer_bytes=len(content) - ends[-1],
        footer_xxh3=checksum(content[ends[-1] :]),
        row_groups=tuple(
            RowGroup(
                num_windows=num_windows,
                num_positions=num_positions,
                offset=start,
                num_bytes=end - start,
                xxh3=checksum(content[start:end]),
            )
            for (num_windows, num_positions), start, end in zip(
                sizes, [0, *ends], ends, strict=False
            )
        ),
        run=run,
    )


def _codecs(targets: TargetSchema, compression: Compression) -> dict[str, str]:
    """Return the codec of every column, by its path in the file."""
    columns = columns_of(targets)
    return {path_of(one): "none" if one.is_random else compression for one in columns}


def _encodings(targets: TargetSchema) -> dict[str, str]:
    """Return which columns are split by byte: numbers whose upper bytes are alike."""
    return {
        path_of(one): "BYTE_STREAM_SPLIT"
        for one in columns_of(targets)
        if one.is_split or (one.element == "float32" and one.width is None)
    }


def _levels(targets: TargetSchema, compression: Compression) -> dict[str, int] | None:
    """Return the level of the columns that the codec's default leaves too large."""
    tight = [one for one in columns_of(targets) if one.is_tight and compression == "zstd"]
    return {path_of(one): 19 for one in tight} or None


def _row_group_ends(content: bytes) -> list[int]:
    """Return where the data of each row group ends; the first begins with the file."""
    metadata = pq.read_metadata(pa.BufferReader(content))
    ends = []
    for group in range(metadata.num_row_groups):
        columns = [metadata.row_group(group).column(index) for index in range(metadata.num_columns)]
        ends.append(
            max(
                (
                    column.data_page_offset
                    if column.dictionary_page_offset is None
                    else column.dictionary_page_offset
                )
                + column.total_compressed_size
                for column in columns
            )
        )
    return ends
