"""The files that are imported: Parquet, or the Arrow files that `datasets` saves.

They come from anybody, so what reading them takes is found out and limited before they are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.errors import CorpusError, error_text
from softtargets.limits import Limit
from softtargets.store.arrow_stream import check_stream
from softtargets.store.parquet_pages import ROW_LIMIT, ParquetPages
from softtargets.texts import is_utf8, shortened

METADATA_KEY = "softtargets"
"""Of a file's metadata: what an export says about the store that it was written from."""

ROWS_LIMIT = Limit(variable="SOFTTARGETS_MAX_IMPORT_ROWS", default=100_000, unit="rows")
"""Of files whose rows have fewer than `_FILE_BYTES_OF_ROW` bytes each."""
_FILE_BYTES_OF_ROW = 64

UNPACKED_LIMIT = Limit(
    variable="SOFTTARGETS_MAX_IMPORT_BYTES", default=1 << 29, unit="unpacked bytes"
)
"""Of files that grow very much when they are unpacked."""

_ROWS = 16
"""How many rows are read at a time, if they are small enough."""
_READ_BYTES = 1 << 24
_CELL_BYTES = 8
"""What an entry or the place for one takes while a unit is written: its id, its value, a copy."""
_MOST_NAMES = 100


def list_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files that paths name; of a directory all .parquet and .arrow files, by name.

    Those whose name begins with `_` or `.` are left out, as readers of a directory do.

    Raises:
        CorpusError: there is none.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(
                one
                for one in path.rglob("*")
                if one.suffix in (".parquet", ".arrow") and one.name[0] not in "_."
            )
        else:
            found.append(path)
    missing = [path for path in found if not path.is_file()]
    if missing or not found:
        raise CorpusError(
            str(missing[0]) if missing else ", ".join(map(str, paths)),
            expected="a .parquet or .arrow file, or a directory with some",
            found="no such file" if missing else "none",
            next_step="Check the path.",
        )
    for path in found:
        if not is_utf8(path.name):
            raise CorpusError(
                str(path),
                expected="a file name in UTF-8, which is kept as the source of its windows",
                found=repr(path.name),
                next_step="Rename the file.",
            )
    return found


def read_metadata(path: Path, key: str) -> bytes | None:
    """Return what a Parquet file's metadata has under a key.

    Raises:
        CorpusError: it cannot be read.
        LimitError: it is too large.
    """
    with _errors(path):
        ParquetPages(path)
        metadata = pq.read_schema(path).metadata or {}
    found: bytes | None = metadata.get(key.encode())
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """A file whose size is known to be within the limits."""

    path: Path
    names: tuple[str, ...]
    """Those of the columns asked for that the file has."""
    num_rows: int
    num_bytes: int
    """Of the columns, unpacked."""
    rows_at_once: int

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield some rows after the other, each time with the number of the first.

        Raises:
            CorpusError: the file cannot be read.
        """
        first = 0
        batches = self._arrow() if _is_arrow(self.path) else self._parquet()
        while True:
            with _errors(self.path):
                batch = next(batches, None)
            if batch is None:
                return
            yield first, batch
            first += batch.num_rows

    def _parquet(self) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(self.path, page_checksum_verification=True, pre_buffer=False) as file:
            for batch in file.iter_batches(self.rows_at_once, columns=list(self.names)):
                batch.validate(full=True)
                yield batch

    def _arrow(self) -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(self.path)) as source, pa.ipc.open_stream(source) as reader:
            for batch in reader:
                own = batch.select(list(self.names))
                own.validate(full=True)
                for start in range(0, own.num_rows, self.rows_at_once):
                    yield own.slice(start, self.rows_at_once)


def open_files(paths: Sequence[Path], names: Sequence[str]) -> list[InputFile]:
    """Return files to be read, when some of their columns are within the limits together.

    Raises:
        CorpusError: a file cannot be read.
        LimitError: the files unpack to more than they are trusted with.
    """
    files: list[InputFile] = []
    file_bytes = 0
    for path in paths:
        with _errors(path):
            file_bytes += path.stat().st_size
            files.append((_open_arrow if _is_arrow(path) else _open_parquet)(path, names))
        where = str(path) if len(paths) == 1 else f"{path} and the files before it"
        UNPACKED_LIMIT.check_growth(where, file_bytes, sum(one.num_bytes for one in files))
        num_rows = sum(one.num_rows for one in files)
        if num_rows * _FILE_BYTES_OF_ROW > file_bytes:
            ROWS_LIMIT.check(where, num_rows)
    return files


def check_cells(files: Sequence[InputFile], num_targets: int, max_entries: int) -> None:
    """Check that what a store gives to all targets, a place for each entry, is within the limits.

    Raises:
        LimitError: it is not, for one target has many entries and most have few.
    """
    file_bytes = sum(file.path.stat().st_size for file in files)
    where = f"{files[0].path}: {num_targets:,} targets with room for {max_entries:,} entries"
    UNPACKED_LIMIT.check_growth(where, file_bytes, num_targets * max_entries * _CELL_BYTES)


def check_row_cells(where: str, num_targets: int, max_entries: int) -> None:
    """Check the same of one row.

    Raises:
        LimitError: it is not.
    """
    ROW_LIMIT.check(
        f"{where}: {num_targets:,} targets with room for {max_entries:,} entries",
        num_targets * max_entries * np.dtype(np.float32).itemsize,
    )


def _is_arrow(path: Path) -> bool:
    return path.suffix == ".arrow"


def _open_parquet(path: Path, names: Sequence[str]) -> InputFile:
    pages = ParquetPages(path)
    own = _known(path, pq.read_schema(path), names)
    # Pages are looked into where the footer asks for no more than is allowed.
    UNPACKED_LIMIT.check_growth(str(path), path.stat().st_size, pages.declared_bytes(own))
    sizes = pages.sizes(own)
    for name, size in sizes.items():
        ROW_LIMIT.check(f"{path}, column {name}", size.row_bytes)
    row_bytes = sum(size.row_bytes for size in sizes.values())
    return InputFile(
        path=path,
        names=own,
        num_rows=pages.footer.num_rows,
        num_bytes=sum(size.num_bytes for size in sizes.values()),
        rows_at_once=min(_ROWS, max(1, _READ_BYTES // max(1, row_bytes))),
    )


def _open_arrow(path: Path, names: Sequence[str]) -> InputFile:
    with pa.memory_map(str(path)) as source:
        check_stream(source)
        source.seek(0)
        with pa.ipc.open_stream(source) as reader:
            own = _known(path, reader.schema, names)
            num_rows = sum(batch.num_rows for batch in reader)
    # Nothing in such a file is packed.
    return InputFile(path=path, names=own, num_rows=num_rows, num_bytes=0, rows_at_once=_ROWS)


def _known(path: Path, schema: pa.Schema, names: Sequence[str]) -> tuple[str, ...]:
    """Return which columns a file has.

    Raises:
        CorpusError: it has one twice, or none.
    """
    own = tuple(name for name in names if name in schema.names)
    twice = [name for name in own if len(schema.get_all_field_indices(name)) > 1]
    if twice or not own:
        shown = ", ".join(schema.names[:_MOST_NAMES])
        raise CorpusError(
            str(path),
            expected=f"one column {twice[0]}" if twice else f"columns {', '.join(names)}",
            found=shortened(f"columns {shown or 'none'}"),
            next_step="docs/formats.md says what each layout has; --from names the layout.",
        )
    return own


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(
            str(path),
            expected="a Parquet file, or an Arrow stream",
            found=shortened(error_text(error)),
            next_step="The file is damaged, or something else; fetch it again.",
        ) from error
