"""One shard: a Parquet file with a row per window."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.errors import CorruptionError, IdentityError, SoftTargetsError
from softtargets.store.codec import decode, encode
from softtargets.store.manifest import RowGroup, ShardEntry
from softtargets.store.schema import (
    METADATA_KEY,
    TargetSchema,
    arrow_schema,
    check_version,
    list_of,
)
from softtargets.window import Window

ROW_GROUP_POSITIONS = 16_384
"""A row group ends with the window that reaches so many positions: about 2 MB at k = 64."""

RESTORE = "Restore the file from a copy, or build the store again."


def shard_path(unit: int) -> str:
    """Return where the shard of a unit lives in its store."""
    return f"shards/unit-{unit:06d}.parquet"


def encode_shard(
    windows: Sequence[Window], targets: TargetSchema, fingerprint: str, unit: int
) -> tuple[bytes, tuple[RowGroup, ...]]:
    """Return the bytes of a shard and its row groups.

    The bytes are a pure function of the arguments and the version of pyarrow.
    """
    schema = arrow_schema(targets, fingerprint, unit)
    floats = [field.name for field in schema if field.type == list_of(pa.float32())]
    sink = pa.BufferOutputStream()
    row_groups = []
    with pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        use_dictionary=["source", "document_ids.list.element"],
        column_encoding={f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in floats},
        write_statistics=["window_id", "source"],
        write_page_checksum=True,
    ) as writer:
        for group in _row_groups(windows):
            writer.write_table(encode(group, schema, targets))
            num_positions = sum(len(window.packed) for window in group)
            row_groups.append(RowGroup(num_windows=len(group), num_positions=num_positions))
    return sink.getvalue().to_pybytes(), tuple(row_groups)


def _row_groups(windows: Sequence[Window]) -> Iterator[list[Window]]:
    group: list[Window] = []
    num_positions = 0
    for window in windows:
        group.append(window)
        num_positions += len(window.packed)
        if num_positions >= ROW_GROUP_POSITIONS:
            yield group
            group, num_positions = [], 0
    if group:
        yield group


class ShardReader:
    """An open shard, checked to be the one the manifest means.

    Arrays read from it stay valid after it is closed.

    Raises:
        CorruptionError: the file is missing, of another size, or not readable as Parquet.
        FormatError: it is of an unknown version.
        IdentityError: it belongs to another store or unit.
    """

    def __init__(
        self, root: Path, entry: ShardEntry, targets: TargetSchema, fingerprint: str
    ) -> None:
        path = root / entry.path
        self.where = str(path)
        self._targets = targets
        size = path.stat().st_size if path.is_file() else None
        if size != entry.num_bytes:
            raise CorruptionError(
                self.where,
                expected=f"{entry.num_bytes:,} bytes",
                found="no file" if size is None else f"{size:,} bytes",
                next_step=RESTORE,
            )
        with _parquet_errors(self.where):
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        try:
            self._check_metadata(entry, fingerprint)
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

    def read_row_group(self, index: int) -> list[Window]:
        """Read the windows of a row group; page checksums are verified.

        Raises:
            CorruptionError: a checksum or the structure is wrong.
        """
        where = f"{self.where}, row group {index}"
        with _parquet_errors(where):
            return decode(self._file.read_row_group(index, use_threads=False), self._targets, where)

    def read_column(self, name: str) -> list[Any]:
        """Read one column of the whole shard as Python objects."""
        with _parquet_errors(self.where):
            values: list[Any] = self._file.read([name], use_threads=False).column(0).to_pylist()
        return values

    def _check_metadata(self, entry: ShardEntry, fingerprint: str) -> None:
        with _parquet_errors(self.where):
            raw = (self._file.schema_arrow.metadata or {}).get(METADATA_KEY, b"{}")
            metadata = dict(json.loads(raw))
        check_version(metadata.get("format_version"), self.where)
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
        self._check_columns(arrow_schema(self._targets, fingerprint, entry.unit))
        footer = self._file.metadata
        found = [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]
        wanted = [group.num_windows for group in entry.row_groups]
        if found != wanted:
            raise CorruptionError(
                self.where,
                expected=f"row groups of {wanted} windows",
                found=f"{found}",
                next_step=RESTORE,
            )

    def _check_columns(self, expected: pa.Schema) -> None:
        """Check names and types: page checksums don't cover the footer that states them."""
        found = self._file.schema_arrow
        for field in expected:
            index = found.get_field_index(field.name)
            if index < 0 or not found.field(index).equals(field):
                raise CorruptionError(
                    self.where,
                    expected=f"a column {field.name} of {field.type}",
                    found="none" if index < 0 else f"{found.field(index)}",
                    next_step=RESTORE,
                )


@contextmanager
def _parquet_errors(where: str) -> Iterator[None]:
    """Turn what pyarrow raises on damaged files into a CorruptionError."""
    try:
        yield
    except SoftTargetsError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise CorruptionError(
            where,
            expected="a readable Parquet file whose checksums hold",
            found=f"{str(error).splitlines()[0] if str(error) else type(error).__name__}",
            next_step=RESTORE,
        ) from error
