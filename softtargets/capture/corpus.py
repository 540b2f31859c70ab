"""Input files to documents, one at a time, in order."""

from __future__ import annotations

import glob
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from softtargets.capture.compressed import open_input
from softtargets.capture.records import (
    Document,
    OnInvalid,
    RecordFields,
    raise_invalid,
    without_nulls,
)
from softtargets.errors import CorpusError
from softtargets.store.files import hash_file

_KINDS = (".txt", ".jsonl", ".parquet")

_Parse = Callable[[], Document | None]
"""Parses one record that was read; None when there is nothing in it."""


@dataclass(frozen=True, kw_only=True)
class Corpus(RecordFields):
    """Files in order, and which fields of a record are meant.

    A `.txt` file is one document. A `.jsonl` file has one on each line, a `.parquet` file one in
    each row. A path with `*`, `?` or `[` that is no file stands for all files it matches, sorted.
    """

    paths: tuple[Path, ...]

    @property
    def name(self) -> str:
        """Return what people call it."""
        return str(self.paths[0]) if len(self.files) == 1 else f"{len(self.files)} files"

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """Return every file, patterns expanded.

        Raises:
            CorpusError: a pattern matches none.
        """
        return tuple(file for path in self.paths for file in _expand(path))

    def describe(self) -> dict[str, Any]:
        """Return what decides the documents, for the identity: names and hashes in order.

        Raises:
            CorpusError: a file is missing, unreadable, or of an unknown kind.
        """
        self._check_files()
        return {"files": [describe_file(path) for path in self.files], **self.describe_fields()}

    def documents(self, on_invalid: OnInvalid = raise_invalid) -> Iterator[Document]:
        """Yield every document.

        Raises:
            CorpusError: a file cannot be read; or, from `on_invalid`, naming the line or row that
                is wrong.
        """
        self._check_files()
        readers = {
            ".txt": self._text_file,
            ".jsonl": self._json_lines,
            ".parquet": self._parquet_rows,
        }
        for path in self.files:
            with _file_errors(path):
                for parse in readers[_kind(path)](path):
                    try:
                        document = parse()
                    except CorpusError as error:
                        on_invalid(error)
                    else:
                        if document is not None:
                            yield document

    def _check_files(self) -> None:
        for path in self.files:
            with _file_errors(path):
                with open(path, "rb"):
                    pass
                if _kind(path) not in _KINDS:
                    raise CorpusError(
                        str(path),
                        expected="a name ending in .txt, .jsonl (both also .gz, .zst) or .parquet",
                        found=f"'{''.join(path.suffixes)}'",
                        next_step="Rename or convert it.",
                    )

    def _text_file(self, path: Path) -> Iterator[_Parse]:
        with open_input(path) as file:
            yield partial(_parse_text, list(file), path)

    def _json_lines(self, path: Path) -> Iterator[_Parse]:
        with open_input(path) as file:
            for number, line in enumerate(file, start=1):
                yield partial(self._parse_line, line, path, number)

    def _parquet_rows(self, path: Path) -> Iterator[_Parse]:
        with pq.ParquetFile(path) as file:
            check_columns(self, str(path), file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=list(self.fields)):
                for row in range(len(batch)):
                    yield partial(self._parse_row, batch.slice(row, 1), path, number)
                    number += 1

    def _parse_line(self, line: bytes, path: Path, number: int) -> Document | None:
        text = _decode(line, path, number)
        if not text.strip():
            return None
        where = f"{path}, line {number}"
        try:
            # Control characters within strings are no reason to lose a document.
            record = json.loads(text, strict=False)
        except (ValueError, RecursionError) as error:
            raise CorpusError(
                where,
                expected="a JSON object",
                found=str(error),
                next_step="Mend or remove the line, or pass --on-invalid skip.",
            ) from error
        return self.parse_record(record, path.name, where, number - 1)

    def _parse_row(self, row: pa.RecordBatch, path: Path, number: int) -> Document:
        where = f"{path}, row {number}"
        try:
            record = row.to_pylist()[0]
        except UnicodeDecodeError as error:
            raise CorpusError(
                where,
                expected="strings in UTF-8",
                found=str(error),
                next_step="Mend the row, or pass --on-invalid skip.",
            ) from error
        return self.parse_record(without_nulls(record), path.name, where, number)


def check_columns(fields: RecordFields, where: str, names: list[str]) -> None:
    """Check that a table has every field that is read.

    Raises:
        CorpusError: a column is missing.
    """
    missing = [field for field in fields.fields if field not in names]
    if missing:
        raise CorpusError(
            where,
            expected=f"a column '{missing[0]}'",
            found=f"columns {names}",
            next_step="Name another one with --text-field, --id-field or the like.",
        )


def describe_file(path: Path) -> dict[str, Any]:
    """Return a file's name, size and hash."""
    return {"name": path.name, "num_bytes": path.stat().st_size, "sha256": hash_file(path)}


def _expand(path: Path) -> list[Path]:
    pattern = str(path)
    if path.exists() or not glob.has_magic(pattern):
        return [path]
    # Path.glob would take hidden files too.
    names = glob.glob(pattern, recursive=True)  # noqa: PTH207
    found = sorted(path for path in map(Path, names) if path.is_file())
    if not found:
        raise CorpusError(
            pattern,
            expected="a pattern that some file matches",
            found="none",
            next_step="Check the pattern; ** stands for any directories.",
        )
    return found


def _kind(path: Path) -> str:
    compressed = path.suffix in (".gz", ".zst")
    suffix = Path(path.stem).suffix if compressed else path.suffix
    return "" if compressed and suffix == ".parquet" else suffix


def _parse_text(lines: list[bytes], path: Path) -> Document:
    parts = [_decode(line, path, number) for number, line in enumerate(lines, start=1)]
    return Document(content="".join(parts), document_id="0", source=path.name)


def _decode(line: bytes, path: Path, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}, line {number}",
            expected="UTF-8",
            found=f"byte 0x{line[error.start]:02x} at column {error.start + 1}",
            next_step="Convert the file to UTF-8 (for example with iconv), or leave the document "
            "out with --on-invalid skip.",
        ) from error


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException) as error:
        raise CorpusError(
            str(path),
            expected="a readable file",
            found=getattr(error, "strerror", None) or str(error).splitlines()[0],
            next_step="Check the path, its permissions and that it is complete.",
        ) from error
