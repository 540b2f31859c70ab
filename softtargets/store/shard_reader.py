"""An open shard, of which nothing is believed that was not checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from softtargets.errors import CorruptionError, SoftTargetsError
from softtargets.limits import Limit
from softtargets.places.ranges import FOOTER, RangeFile
from softtargets.store.codec import decode, decode_rows
from softtargets.store.pages import check_unpacked
from softtargets.store.parquet_footer import FOOTER_END, FOOTER_LIMIT, check_chunks
from softtargets.store.row import Row, row_columns
from softtargets.store.schema import has_shared_texts, path_of
from softtargets.store.scratch import as_file, parquet_errors, scratch
from softtargets.store.shard_footer import check_footer
from softtargets.store.shard_table import ShardEntry
from softtargets.store.shard_texts import with_plain_texts
from softtargets.targets import TargetSchema, columns_of
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
        file: RangeFile,
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
            with parquet_errors(self.where):
                content = np.empty(entry.footer_bytes, np.uint8)
            self._file.read_into(content.data, start, entry.footer_xxh3, FOOTER)
            with parquet_errors(self.where):
                if checked is None:
                    check_chunks(content.data[:-FOOTER_END])
                self._footer = pq.read_metadata(as_file(content))
            if checked is None:
                check_footer(self._footer, entry, targets, fingerprint, self.where)
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
        with parquet_errors(where):
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
        with parquet_errors(where):
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
        with parquet_errors(where):
            return decode(table.slice(row, 1), self._targets, where, first_row=row)[0]

    def read_columns(self, names: Sequence[str]) -> pa.Table:
        """Read some columns of the whole shard, unpacking no other.

        Raises:
            CorruptionError: a checksum or the structure is wrong.
        """
        groups = range(len(self._entry.row_groups))
        if any(name in self._texts for name in names):
            # pyarrow reads lists of shared texts of one row group at a time only.
            return pa.concat_tables(
                self._read_table([group], names, self.where) for group in groups
            )
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
        with parquet_errors(self.where):
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
        with parquet_errors(self.where):
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
        with parquet_errors(where):
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
        with parquet_errors(where):
            content = scratch(self._entry.num_bytes)
        places = {}
        for index in groups:
            group = self._entry.row_groups[index]
            places[index] = range(group.offset, group.offset + group.num_bytes)
            piece = content[group.offset : places[index].stop].data
            self._file.read_into(piece, group.offset, group.xxh3, f"row group {index}")
        texts = [self._texts[name] for name in columns if name in self._texts]
        shared = [column.name for column in texts]
        with parquet_errors(where):
            if not is_checked:
                check_unpacked(
                    content.data, self._footer, places, columns, where, shared_texts=shared
                )
            with pq.ParquetFile(
                as_file(content),
                metadata=self._footer,
                read_dictionary=[path_of(column) for column in texts],
            ) as file:
                table = file.read_row_groups(list(groups), columns=list(columns), use_threads=False)
            table = with_plain_texts(table, texts, where)
        if "window_id" in columns:
            _check_ids(table.column("window_id"), where)
        return table


def _longest(table: pa.Table, column: str) -> int:
    return int(pc.max(pc.list_value_length(table.column(column))).as_py() or 0)


def _check_ids(ids: pa.ChunkedArray, where: str) -> None:
    """Check that what stands in the place of windows' ids may be some."""
    is_id = pc.match_substring_regex(ids, "^[0-9a-f]{32}$")
    if not pc.all(is_id).as_py():
        place = pc.index(is_id, False).as_py()
        # Arrow has not looked whether the bytes are UTF-8.
        text = ids[place].as_buffer().to_pybytes().decode("utf-8", "backslashreplace")
        raise CorruptionError(
            f"{where}, row {place}, column window_id",
            expected="32 hexadecimal digits",
            found=shortened(repr(text), 100),
        )
