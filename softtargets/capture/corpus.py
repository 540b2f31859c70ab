"""Input files to documents, one at a time, in order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.capture.compressed import open_input
from softtargets.capture.corpus_file import CorpusFile, LocalFile, unchanged
from softtargets.capture.corpus_slices import (
    CorpusSlice,
    FilePart,
    content_bytes,
    cut_files,
    whole,
)
from softtargets.capture.documents import (
    DOCUMENT_LIMIT,
    Document,
    OnInvalid,
    Records,
    raise_invalid,
)
from softtargets.capture.input_files import check_files, expand_path, file_errors, file_kind
from softtargets.capture.parquet_parts import local_parts
from softtargets.capture.records import RecordFields, without_nulls
from softtargets.capture.unpacked import Unpacked
from softtargets.errors import CorpusError
from softtargets.hashes import file_entry, hash_stream
from softtargets.places.file_versions import FileVersion
from softtargets.store.parquet_pages import PAGE_LIMIT, ROW_LIMIT, ParquetPages
from softtargets.texts import shortened
from softtargets.urls import redacted

_ROWS = 1024
"""Of a Parquet file, how many are read at a time if they are small enough."""
_READ_BYTES = 1 << 25
_ROW_BYTES = 256
_EMPTY_BYTES = 16
"""What a record and an empty line count at least: those without content take time, too."""

_Parse = Callable[[], Document | None]
"""Parses one record that was read; None when there is nothing in it."""


@dataclass(frozen=True, kw_only=True)
class Corpus(RecordFields):
    """Files in order, and which fields of a record are meant.

    A `.txt` file is one document. A `.jsonl` file has one on each line, a `.parquet` file one in
    each row. A path with `*`, `?` or `[` that is no file stands for all files it matches, sorted.
    A URL, as s3://bucket/part-*.jsonl, is a text; its ? begins options.
    """

    paths: tuple[Path | str, ...]

    def __repr__(self) -> str:
        # A URL may have credentials.
        return f"Corpus({', '.join(redacted(str(path)) for path in self.paths)})"

    @property
    def name(self) -> str:
        """Return what people call it."""
        return str(self._found[0]) if len(self._found) == 1 else f"{len(self._found)} files"

    @property
    def files(self) -> tuple[Path | str, ...]:
        """Return every file, patterns expanded: its path, or its URL without credentials.

        Raises:
            CorpusError: a pattern matches none.
        """
        return tuple(one.path if isinstance(one, LocalFile) else str(one) for one in self._found)

    @cached_property
    def _found(self) -> tuple[CorpusFile, ...]:
        return tuple(file for path in self.paths for file in expand_path(path))

    @cached_property
    def _versions(self) -> dict[str, FileVersion]:
        return {}  # Of the files that were hashed, by what messages call them.

    def describe(self) -> dict[str, Any]:
        """Return what decides the documents, for the identity: names and hashes in order.

        Documents that are read afterwards have to be of the files as they are now.

        Raises:
            CorpusError: a file is missing, unreadable, of an unknown kind, or changed meanwhile.
            StoreError: a URL cannot be reached.
        """
        self.__dict__.pop("_found", None)
        check_files(self._found)
        return {"files": [self._hashed(file) for file in self._found], **self.describe_fields()}

    def _hashed(self, file: CorpusFile) -> dict[str, Any]:
        with file_errors(file), unchanged(file) as version, file.open() as content:
            self._versions[str(file)] = version
            return file_entry(file.name, file.num_bytes, hash_stream(content))

    @property
    def content_bytes(self) -> int:
        """Return about how large the content of all files is.

        Raises:
            CorpusError: a file is missing, unreadable, or of an unknown kind.
        """
        check_files(self._found)
        return sum(map(content_bytes, self._found))

    def slices(self, slice_bytes: int) -> list[CorpusSlice]:
        """Return parts of the corpus in order, of about a size of content or of one file each.

        Raises:
            CorpusError: a file cannot be read.
        """
        return cut_files(self._found, slice_bytes)

    def documents(
        self,
        on_invalid: OnInvalid = raise_invalid,
        records: Records | None = None,
        own: CorpusSlice | None = None,
    ) -> Iterator[Document]:
        """Yield every document.

        Args:
            on_invalid: called with what is wrong with a document.
            records: makes documents of records, if not the fields of the corpus itself. A `.txt`
                file has none.
            own: a slice, of which the documents are; None for the whole corpus.

        Raises:
            CorpusError: a file cannot be read, or changes; or, from `on_invalid`, naming the line
                or row that is wrong.
            StoreError: a URL cannot be reached.
        """
        own = whole(self._found) if own is None else own
        check_files(part.file for part in own.parts)
        # At once, files before these would let them grow.
        unpacked = Unpacked(file_bytes=own.bytes_before)
        records = records or self
        for part in own.parts:
            version = self._versions.get(str(part.file))
            with file_errors(part.file), unchanged(part.file, version):
                unpacked.add_file(part.file)
                for parse in self._parses(records, part, unpacked):
                    try:
                        document = parse()
                    except CorpusError as error:
                        on_invalid(error)
                    else:
                        if document is not None:
                            yield document

    def _parses(self, records: Records, part: FilePart, unpacked: Unpacked) -> Iterator[_Parse]:
        kind = file_kind(part.file.name)
        if kind == ".parquet":
            return _parquet_rows(records, self.input_ids_field, part, unpacked)
        return (
            _text_file(part, unpacked) if kind == ".txt" else _json_lines(records, part, unpacked)
        )


def _text_file(part: FilePart, unpacked: Unpacked) -> Iterator[_Parse]:
    file, most = part.file, DOCUMENT_LIMIT.value
    with open_input(file) as stream:
        content = stream.read(most + 1)
        unpacked.add(len(content))
        if len(content) > most:
            size = len(content) + unpacked.count_rest(stream.read)
            DOCUMENT_LIMIT.check(f"{file}, which is one document", size)
    yield partial(_parse_text, content, file)


def _json_lines(records: Records, part: FilePart, unpacked: Unpacked) -> Iterator[_Parse]:
    file, most = part.file, DOCUMENT_LIMIT.value
    with open_input(file) as stream:
        for number in count(1):
            line = stream.readline(most + 1)
            if not line:
                return
            is_empty = line.isspace()
            unpacked.add(max(len(line), _EMPTY_BYTES if is_empty else _ROW_BYTES))
            if len(line) > most:
                size = len(line) + (line[-1:] != b"\n" and unpacked.count_rest(stream.readline))
                DOCUMENT_LIMIT.check(f"{file}, line {number}", size)
            if not is_empty:
                yield partial(_parse_line, records, line, file, number)


def _parquet_rows(
    records: Records, ids_field: str | None, part: FilePart, unpacked: Unpacked
) -> Iterator[_Parse]:
    number, columns = part.first_row, list(records.fields)
    for path, row_groups in local_parts(part.file, columns, part.row_groups):
        batch_size = _rows_at_once(records, ids_field, part.file, path, row_groups)
        with pq.ParquetFile(path, pre_buffer=False) as opened:
            for batch in opened.iter_batches(batch_size, row_groups=row_groups, columns=columns):
                for row in range(len(batch)):
                    own = batch.slice(row, 1)
                    yield partial(_parse_row, records, own, part.file, number, unpacked)
                    number += 1


def _rows_at_once(
    records: Records,
    ids_field: str | None,
    file: CorpusFile,
    path: Path,
    row_groups: Sequence[int],
) -> int:
    """Return how many rows of a Parquet file fit into memory at a time."""
    pages = ParquetPages(path, str(file))
    check_columns(records, str(file), pq.read_schema(path).names)
    sizes = pages.sizes(records.fields, row_groups)
    for name, size in sizes.items():
        limit = ROW_LIMIT if name == ids_field else PAGE_LIMIT
        limit.check(f"{file}, column {name}", size.row_bytes)
    row_bytes = sum(size.row_bytes for size in sizes.values())
    return min(_ROWS, max(1, _READ_BYTES // max(1, row_bytes)))


def _parse_line(records: Records, line: bytes, file: CorpusFile, number: int) -> Document | None:
    text = _decode(line, file, number)
    where = f"{file}, line {number}"
    try:
        # Control characters within strings are no reason to lose a document.
        record = json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        raise CorpusError(
            where,
            expected="a JSON object",
            found=shortened(str(error)),
            next_step="Mend or remove the line, or pass --on-invalid skip.",
        ) from error
    return records.parse_record(record, file.name, where, number - 1)


def _parse_row(
    records: Records, row: pa.RecordBatch, file: CorpusFile, number: int, unpacked: Unpacked
) -> Document:
    where = f"{file}, row {number}"
    try:
        record = row.to_pylist()[0]
    except (ValueError, OverflowError) as error:
        raise CorpusError(
            where,
            expected="values that Python has, strings in UTF-8",
            found=shortened(str(error)),
            next_step="Mend the row, or pass --on-invalid skip.",
        ) from error
    document = records.parse_record(without_nulls(record), file.name, where, number)
    # Rows may share a text.
    num_characters = len(document.content) if isinstance(document.content, str) else 0
    unpacked.add(max(row.nbytes, num_characters, _ROW_BYTES))
    return document


def check_columns(records: Records, where: str, names: list[str]) -> None:
    """Check that a table has every field that is read.

    Raises:
        CorpusError: a column is missing.
    """
    missing = [field for field in records.fields if field not in names]
    if missing:
        raise CorpusError(
            where,
            expected=f"a column '{missing[0]}'",
            found=shortened(f"columns {names}"),
            next_step="Name another one with --text-field, --id-field or the like.",
        )


def _parse_text(content: bytes, file: CorpusFile) -> Document:
    return Document(content=_decode(content, file, 1), document_id="0", source=file.name)


def _decode(content: bytes, file: CorpusFile, first_line: int) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + content.count(b"\n", 0, error.start)
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise CorpusError(
            f"{file}, line {line}",
            expected="UTF-8",
            found=f"byte 0x{content[error.start]:02x} at column {column}",
            next_step="Convert the file to UTF-8 (for example with iconv), or leave the document "
            "out with --on-invalid skip.",
        ) from error
