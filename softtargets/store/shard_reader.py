"""An open shard, of which nothing is believed that was not checked."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from softtargets.errors import CorruptionError, IdentityError, SoftTargetsError
from softtargets.limits import Limit
from softtargets.store.codec import decode, decode_rows
from softtargets.store.json_object import parse_object
from softtargets.store.location import FOOTER, ShardFile
from softtargets.store.manifest import RESTORE
from softtargets.store.pages import UNPACKED_BYTES, check_unpacked
from softtargets.store.parquet_footer import FOOTER_END, FOOTER_LIMIT, check_chunks
from softtargets.store.row import Row, row_columns
from softtargets.store.schema import METADATA_KEY, field_of, has_shared_texts, path_of
from softtargets.store.shard_table import ShardEntry
from softtargets.store.versions import check_version, upgrade_targets
from softtargets.targets import Column, TargetSchema, UInt8, columns_of
from softtargets.texts import shortened
from softtargets.window import Window

WINDOW_BYTES = Limit(
    variable="SOFTTARGETS_MAX_WINDOW_BYTES",
    default=320 << 20,
    unit="bytes to compute with a window's targets",
)
"""If that is much more than its row group takes in the file."""

_USUAL_RATIO = 40


class ShardReader:
    """An open shard, checked to be the one the manifest means.

    Only the footer and the row groups that are asked for are read from the file, and every byte
    that is read is checked before it is parsed. Arrays stay valid after the shard is closed.

    Args:
        file: the open shard; it is closed with this reader.
        entry: of the shard in the manifest.
        targets: what the store's targets are.
        fingerprint: of the store.
        checked: row groups whose rows another reader of the same bytes found sound; None if not
            even the footer was compared with these arguments before.

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
        checked: set[int] | None = None,
    ) -> None:
        self.where = file.where
        self.checked = set() if checked is None else checked
        """Row groups whose rows need not be looked at again: their hash says they are the same."""
        self._file = file
        self._entry = entry
        self._targets = targets
        self._columns = [column.name for column in columns_of(targets)]
        self._texts = {
            column.name: column for column in columns_of(targets) if has_shared_texts(column)
        }
        self._working_bytes = {
            column.name: column.working_bytes
            for column in columns_of(targets)
            if column.working_bytes
        }
        try:
            FOOTER_LIMIT.check(f"{self.where}, {FOOTER}", entry.footer_bytes)
            start = entry.num_bytes - entry.footer_bytes
            with _parquet_errors(self.where):
                content = np.empty(entry.footer_bytes, np.uint8)
            self._file.read_into(content.data, start, entry.footer_xxh3, FOOTER)
            with _parquet_errors(self.where):
                if checked is None:
                    check_chunks(content.data[:-FOOTER_END])
                self._footer = pq.read_metadata(_as_file(content))
            if checked is None:
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
        table = self._read_windows(index, self._columns, where)
        with _parquet_errors(where):
            return decode(table, self._targets, where, are_values_checked=are_values_checked)

    def read_rows(self, index: int) -> list[Row]:
        """Read the rows of a row group, without what is no array in them.

        Raises:
            CorruptionError: its checksum, its structure or a value is wrong.
        """
        where = f"{self.where}, row group {index}"
        columns, is_checked = row_columns(self._targets), index in self.checked
        if is_checked:
            table = self._read_table([index], columns, where, is_checked=True)
        else:
            table = self._read_windows(index, columns, where)
        with _parquet_errors(where):
            rows = decode_rows(table, self._targets, where, are_values_checked=not is_checked)
        self.checked.add(index)
        return rows

    def read_window(self, index: int, row: int) -> Window:
        """Read one window of a row group, without making the others.

        Raises:
            CorruptionError: a checksum or the structure of the row group, or a value of the window
                is wrong.
        """
        where = f"{self.where}, row group {index}"
        table = self._read_windows(index, self._columns, where)
        with _parquet_errors(where):
            return decode(table.slice(row, 1), self._targets, where, first_row=row)[0]

    def read_columns(self, names: Sequence[str]) -> pa.Table:
        """Read some columns of the whole shard, unpacking no other.

        Raises:
            CorruptionError: a checksum or the structure is wrong.
        """
        groups = range(len(self._entry.row_groups))
        return self._read_table(groups, names, self.where)

    def read_window_ids(self) -> npt.NDArray[np.bytes_]:
        """Read the ids of all windows.

        Raises:
            CorruptionError: a checksum or the structure is wrong.
        """
        ids = self.read_columns(["window_id"]).column(0)
        return np.array(ids.to_numpy(), "S32")

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

    def _read_windows(self, index: int, columns: Sequence[str], where: str) -> pa.Table:
        """Read columns of windows that are to be computed with."""
        table = self._read_table([index], columns, where)
        needed = max(
            [_longest(table, name) * num_bytes for name, num_bytes in self._working_bytes.items()],
            default=0,
        )
        if needed > _USUAL_RATIO * self._entry.row_groups[index].num_bytes:
            WINDOW_BYTES.check(f"{where}, its longest window", needed)
        return table

    def _read_table(
        self,
        groups: Sequence[int],
        columns: Sequence[str],
        where: str,
        *,
        is_checked: bool = False,
    ) -> pa.Table:
        with _parquet_errors(where):
            content = _scratch(self._entry.num_bytes)
        places = {}
        for index in groups:
            group = self._entry.row_groups[index]
            places[index] = range(group.offset, group.offset + group.num_bytes)
            piece = content[group.offset : places[index].stop].data
            self._file.read_into(piece, group.offset, group.xxh3, f"row group {index}")
        texts = [self._texts[name] for name in columns if name in self._texts]
        shared = [column.name for column in texts]
        with _parquet_errors(where):
            if not is_checked:
                check_unpacked(
                    content.data, self._footer, places, columns, where, shared_texts=shared
                )
            with pq.ParquetFile(
                _as_file(content),
                metadata=self._footer,
                read_dictionary=[path_of(column) for column in texts],
            ) as file:
                table = file.read_row_groups(list(groups), columns=list(columns), use_threads=False)
            table = _with_plain_texts(table, texts, where)
        if "window_id" in columns:
            _check_ids(table.column("window_id"), where)
        return table

    def _check_metadata(self, fingerprint: str) -> None:
        entry = self._entry
        with _parquet_errors(self.where):
            found_schema = self._footer.schema.to_arrow_schema()
        metadata = parse_object((found_schema.metadata or {}).get(METADATA_KEY, b"{}"), self.where)
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
            wanted = field_of(column)
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


def _longest(table: pa.Table, column: str) -> int:
    return int(pc.max(pc.list_value_length(table.column(column))).as_py() or 0)


def _check_ids(ids: pa.ChunkedArray, where: str) -> None:
    """Check that what stands in the place of windows' ids may be some."""
    is_id = pc.match_substring_regex(ids, "^[0-9a-f]{32}$")
    if not pc.all(is_id).as_py():
        place = pc.index(is_id, False).as_py()
        raise CorruptionError(
            f"{where}, row {place}, column window_id",
            expected="32 hexadecimal digits",
            found=shortened(repr(ids[place].as_py()), 100),
            next_step=RESTORE,
        )


def _with_plain_texts(table: pa.Table, columns: Sequence[Column], where: str) -> pa.Table:
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
