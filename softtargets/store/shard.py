"""One shard: a Parquet file with a row per window."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from softtargets.errors import CorruptionError, IdentityError, SoftTargetsError
from softtargets.kinds import TargetSchema
from softtargets.store.codec import Row, decode, decode_rows, encode, row_columns
from softtargets.store.files import checksum, hash_bytes
from softtargets.store.location import FOOTER, ShardFile
from softtargets.store.manifest import RESTORE
from softtargets.store.schema import (
    METADATA_KEY,
    Column,
    Compression,
    arrow_schema,
    columns_of,
    id_columns,
)
from softtargets.store.shard_table import RowGroup, ShardEntry
from softtargets.store.versions import check_version, upgrade_targets
from softtargets.targets import UInt8
from softtargets.window import Window, cut_windows

ROW_GROUP_TOKENS = 16_384
"""A row group ends with the window that reaches so many tokens: about 2 MB at k = 64."""

ROW_GROUP_WINDOWS = 1024
"""It also ends after so many windows, so that one of them is found quickly."""


def shard_path(unit: int) -> str:
    """Return where the shard of a unit lives in its store."""
    return f"shards/unit-{unit:06d}.parquet"


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
        use_dictionary=[
            _path(column)
            for column in columns_of(targets)
            if column.element == pa.string() and column.name != "window_id"
        ],
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
    """Return the codec of every column, by its path in the file.

    The lowest byte of the ids is as good as random where there are others: compressing it saves
    hardly anything and costs time whenever it is read (docs/layouts.md).
    """
    codecs: dict[str, str] = {_path(one): compression for one in columns_of(targets)}
    lowest, *others = id_columns(targets)
    for column in columns_of(targets):
        if column.name == lowest and others:
            codecs[_path(column)] = "none"
    return codecs


def _encodings(targets: TargetSchema) -> dict[str, str]:
    """Return which columns are split by byte: numbers whose upper bytes are alike."""
    return {
        _path(column): "BYTE_STREAM_SPLIT"
        for column in columns_of(targets)
        if column.element == pa.float32() or column.name in _SPLIT_COLUMNS
    }


def _levels(targets: TargetSchema, compression: Compression) -> dict[str, int] | None:
    """Return the level of the columns that the codec's default leaves too large.

    Sample columns are small, and zstd packs them tightly only at its highest level.
    """
    names = _SAMPLE_COLUMNS if compression == "zstd" else ()
    return {_path(one): 19 for one in columns_of(targets) if one.name in names} or None


_SAMPLE_COLUMNS = ("num_repeated", "repeated_counts", "sample_gaps", "sample_steps")
_SPLIT_COLUMNS = (*_SAMPLE_COLUMNS, "escapes", "label_rank")


def _path(column: Column) -> str:
    return column.name if column.rows == "window" else f"{column.name}.list.element"


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


class ShardReader:
    """An open shard, checked to be the one the manifest means.

    Only the footer and the row groups that are asked for are read from the file, and every byte
    that is read is checked before it is parsed. Arrays stay valid after the shard is closed.

    Args:
        file: the open shard; it is closed with this reader.
        entry: of the shard in the manifest.
        targets: what the store's targets are.
        fingerprint: of the store.
        is_checked: whether the content of this footer was compared with these arguments before.

    Raises:
        CorruptionError: the file is missing, or not what was written.
        FormatError: it is of an unknown version.
        IdentityError: it belongs to another store or unit.
    """

    def __init__(
        self,
        file: ShardFile,
        entry: ShardEntry,
        targets: TargetSchema,
        fingerprint: str,
        *,
        is_checked: bool = False,
    ) -> None:
        self.where = file.where
        self._file = file
        self._entry = entry
        self._targets = targets
        self._columns = [column.name for column in columns_of(targets)]
        try:
            start = entry.num_bytes - entry.footer_bytes
            with _parquet_errors(self.where):
                content = np.empty(entry.footer_bytes, np.uint8)
            self._file.read_into(content.data, start, entry.footer_xxh3, FOOTER)
            with _parquet_errors(self.where):
                self._footer = pq.read_metadata(_as_file(content))
            if not is_checked:
                self._check_metadata(fingerprint)
        except SoftTargetsError:
            self.close()
            raise

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read_row_group(self, index: int, *, are_values_checked: bool = True) -> list[Window]:
        """Read the windows of a row group, whatever their values if those are not to be checked.

        Raises:
            CorruptionError: its checksum, its structure or a value is wrong.
        """
        where = f"{self.where}, row group {index}"
        table = self._read_table([index], self._columns, where)
        with _parquet_errors(where):
            return decode(table, self._targets, where, are_values_checked=are_values_checked)

    def read_rows(self, index: int) -> list[Row]:
        """Read the rows of a row group, without what is no array in them.

        Raises:
            CorruptionError: its checksum, its structure or a value is wrong.
        """
        where = f"{self.where}, row group {index}"
        table = self._read_table([index], row_columns(self._targets), where)
        with _parquet_errors(where):
            return decode_rows(table, self._targets, where)

    def read_window(self, index: int, row: int) -> Window:
        """Read one window of a row group, without making the others.

        Raises:
            CorruptionError: a checksum or the structure of the row group, or a value of the window
                is wrong.
        """
        where = f"{self.where}, row group {index}"
        table = self._read_table([index], self._columns, where)
        with _parquet_errors(where):
            return decode(table.slice(row, 1), self._targets, where, first_row=row)[0]

    def read_columns(self, names: Sequence[str]) -> pa.Table:
        """Read some columns of the whole shard, unpacking no other.

        Raises:
            CorruptionError: a checksum or the structure is wrong.
        """
        groups = range(len(self._entry.row_groups))
        return self._read_table(groups, names, self.where)

    def read_sources(self) -> Iterator[tuple[str, int]]:
        """Yield the windows' sources in runs, each with its length.

        The footer knows of a row group whether it is of one source; it is read only if it is not.

        Raises:
            CorruptionError: a checksum or the structure is wrong.
        """
        for index, group in enumerate(self._entry.row_groups):
            first, last = self._source_range(index)
            if first is not None and first == last:
                yield first, group.num_windows
            else:
                where = f"{self.where}, row group {index}"
                sources = self._read_table([index], ["source"], where).column(0).to_pylist()
                yield from ((source, len(list(run))) for source, run in groupby(sources))

    def _source_range(self, index: int) -> tuple[str | None, str | None]:
        """Return the first and the last of a row group's sources in alphabetical order."""
        footer = self._footer.row_group(index)
        with _parquet_errors(self.where):
            columns = (footer.column(number) for number in range(footer.num_columns))
            source = next(column for column in columns if column.path_in_schema == "source")
            statistics = source.statistics
            if statistics is None or not statistics.has_min_max:
                return None, None
            return statistics.min, statistics.max

    def column_bytes(self) -> dict[str, int]:
        """Return how many bytes of the file each column takes, by its name; from the footer alone.

        Raises:
            CorruptionError: the footer cannot be read.
        """
        sizes: dict[str, int] = {}
        with _parquet_errors(self.where):
            for group in range(self._footer.num_row_groups):
                footer = self._footer.row_group(group)
                for column in (footer.column(number) for number in range(footer.num_columns)):
                    name = column.path_in_schema.partition(".")[0]
                    sizes[name] = sizes.get(name, 0) + column.total_compressed_size
        return sizes

    def read_documents(self, index: int) -> list[tuple[str, str]]:
        """Read of every window of a row group the source and the id of its first document.

        Raises:
            CorruptionError: a checksum or the structure is wrong.
        """
        where = f"{self.where}, row group {index}"
        table = self._read_table([index], ["source", "document_ids"], where)
        with _parquet_errors(where):
            first = pc.list_element(table.column("document_ids"), 0)
            return list(zip(table.column("source").to_pylist(), first.to_pylist(), strict=True))

    def _read_table(self, groups: Sequence[int], columns: Sequence[str], where: str) -> pa.Table:
        with _parquet_errors(where):
            content = _scratch(self._entry.num_bytes)
        for index in groups:
            group = self._entry.row_groups[index]
            piece = content[group.offset : group.offset + group.num_bytes].data
            self._file.read_into(piece, group.offset, group.xxh3, f"row group {index}")
        source = _as_file(content)
        with _parquet_errors(where), pq.ParquetFile(source, metadata=self._footer) as file:
            return file.read_row_groups(list(groups), columns=list(columns), use_threads=False)

    def _check_metadata(self, fingerprint: str) -> None:
        entry = self._entry
        with _parquet_errors(self.where):
            found_schema = self._footer.schema.to_arrow_schema()
            metadata = dict(json.loads((found_schema.metadata or {}).get(METADATA_KEY, b"{}")))
        version = check_version(metadata.get("format_version"), self.where)
        metadata["targets"] = upgrade_targets(metadata.get("targets"), version)
        expected = {
            "fingerprint": fingerprint,
            "unit": entry.unit,
            "targets": self._targets.to_dict(),
        }
        for field, value in expected.items():
            if metadata.get(field) != value:
                raise IdentityError(
                    f"{self.where}, field {field}",
                    expected=f"{value!r}",
                    found=f"{metadata.get(field)!r}",
                    next_step="The shard belongs to another store; restore the right file.",
                )
        for column in columns_of(self._targets):
            wanted = column.field
            index = found_schema.get_field_index(wanted.name)
            if index < 0 or not found_schema.field(index).equals(wanted):
                raise CorruptionError(
                    self.where,
                    expected=f"a column {wanted.name} of {wanted.type}",
                    found="none" if index < 0 else f"{found_schema.field(index)}",
                    next_step=RESTORE,
                )
        found = [self._footer.row_group(i).num_rows for i in range(self._footer.num_row_groups)]
        rows = [group.num_windows for group in entry.row_groups]
        if found != rows:
            raise CorruptionError(
                self.where,
                expected=f"row groups of {rows} windows",
                found=f"{found}",
                next_step=RESTORE,
            )


class _Kept(threading.local):
    """Memory of a thread that files are read into, again and again: fresh memory costs time."""

    memory: UInt8 | None = None


_KEPT = _Kept()
_MOST_KEPT_BYTES = 64 * 2**20


def _scratch(num_bytes: int) -> UInt8:
    """Return memory as long as a shard, which the next call in this thread returns again.

    A row group is read to its place in the shard; what is never touched costs addresses only.
    pyarrow copies whatever it decodes, so nothing refers to this memory afterwards.
    """
    if num_bytes > _MOST_KEPT_BYTES:
        return np.empty(num_bytes, np.uint8)
    if _KEPT.memory is None or len(_KEPT.memory) < num_bytes:
        _KEPT.memory = np.empty(num_bytes, np.uint8)
    return _KEPT.memory[:num_bytes]


def _as_file(content: UInt8) -> pa.BufferReader:
    return pa.BufferReader(pa.py_buffer(content))


@contextmanager
def _parquet_errors(where: str) -> Iterator[None]:
    """Turn what pyarrow raises on damaged files into a CorruptionError."""
    try:
        yield
    except SoftTargetsError:
        raise
    except (pa.ArrowException, MemoryError, OSError, ValueError, KeyError) as error:
        raise CorruptionError(
            where,
            expected="a readable Parquet file whose checksums hold",
            found=f"{str(error).splitlines()[0] if str(error) else type(error).__name__}",
            next_step=RESTORE,
        ) from error
