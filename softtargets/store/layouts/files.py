"""The files that are imported: Parquet, or the Arrow files that `datasets` saves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.errors import CorpusError
from softtargets.store.files import hash_file

METADATA_KEY = "softtargets"
"""Of a file's metadata: what an export says about the store that it was written from."""
_ROWS = 16
"""How many rows are read at a time."""


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
    return found


def describe_files(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Return name, size and SHA-256 of each, for the identity."""
    return [
        {"name": path.name, "num_bytes": path.stat().st_size, "sha256": hash_file(path)}
        for path in files
    ]


def read_metadata(path: Path, key: str) -> bytes | None:
    """Return what a Parquet file's metadata has under a key.

    Raises:
        CorpusError: it cannot be read.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    found: bytes | None = metadata.get(key.encode())
    return found


def read_batches(path: Path) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield some rows after the other, each time with the number of the first.

    Raises:
        CorpusError: the file cannot be read.
    """
    first = 0
    batches = _arrow(path) if path.suffix == ".arrow" else _parquet(path)
    while True:
        try:
            batch = next(batches, None)
            if batch is not None:
                batch.validate(full=True)
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise _unreadable(path, error) from error
        if batch is None:
            return
        yield first, batch
        first += batch.num_rows


def _parquet(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        yield from file.iter_batches(batch_size=_ROWS)


def _arrow(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            yield from (batch.slice(start, _ROWS) for start in range(0, batch.num_rows, _ROWS))


def _unreadable(path: Path, error: Exception) -> CorpusError:
    return CorpusError(
        str(path),
        expected="a Parquet file, or an Arrow stream",
        found=f"{str(error).splitlines()[0][:200] if str(error) else type(error).__name__}",
        next_step="The file is damaged, or something else; fetch it again.",
    )
