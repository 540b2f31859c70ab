"""Input files to documents, one at a time, in order."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from softtargets.capture.compressed import open_input
from softtargets.errors import CorpusError
from softtargets.store.files import hash_file

_KINDS = (".txt", ".jsonl", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text and where it came from."""

    text: str
    document_id: str
    source: str
    """Name of its file, without the directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Files in order, and which fields of a record are meant.

    A `.txt` file is one document. A `.jsonl` file has one on each line, a `.parquet` file one in
    each row; without an id field, a document's id is its number in the file, from 0.
    """

    paths: tuple[Path, ...]
    text_field: str = "text"
    id_field: str | None = None

    def describe(self) -> dict[str, Any]:
        """Return what decides the documents, for the identity: names and hashes in order.

        Raises:
            CorpusError: a file is missing, unreadable, or of an unknown kind.
        """
        return {
            "files": [
                {"name": path.name, "num_bytes": path.stat().st_size, "sha256": hash_file(path)}
                for path in self._checked_paths()
            ],
            "text_field": self.text_field,
            "id_field": self.id_field,
        }

    def documents(self) -> Iterator[Document]:
        """Yield every document.

        Raises:
            CorpusError: naming the file, and the line or row, that is wrong.
        """
        readers = {
            ".txt": self._read_text,
            ".jsonl": self._read_json_lines,
            ".parquet": self._read_parquet,
        }
        for path in self._checked_paths():
            with _file_errors(path):
                yield from readers[_kind(path)](path)

    def _checked_paths(self) -> Sequence[Path]:
        for path in self.paths:
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
        return self.paths

    def _read_text(self, path: Path) -> Iterator[Document]:
        with open_input(path) as file:
            lines = [_decode(line, path, number) for number, line in enumerate(file, start=1)]
        yield Document(text="".join(lines), document_id="0", source=path.name)

    def _read_json_lines(self, path: Path) -> Iterator[Document]:
        with open_input(path) as file:
            for number, line in enumerate(file, start=1):
                text = _decode(line, path, number)
                if not text.strip():
                    continue
                try:
                    record = json.loads(text)
                except ValueError as error:
                    raise CorpusError(
                        f"{path}, line {number}",
                        expected="a JSON object",
                        found=str(error),
                        next_step="Mend or remove the line.",
                    ) from error
                yield self._document(record, path, f"line {number}", number - 1)

    def _read_parquet(self, path: Path) -> Iterator[Document]:
        fields = [self.text_field, *([self.id_field] if self.id_field else [])]
        number = 0
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            missing = [field for field in fields if field not in names]
            if missing:
                raise CorpusError(
                    str(path),
                    expected=f"a column '{missing[0]}'",
                    found=f"columns {names}",
                    next_step="Name another one with --text-field or --id-field.",
                )
            for batch in file.iter_batches(batch_size=1024, columns=fields):
                for record in batch.to_pylist():
                    yield self._document(record, path, f"row {number}", number)
                    number += 1

    def _document(self, record: Any, path: Path, where: str, number: int) -> Document:
        """Return the document of one parsed record, or say which field is wrong."""
        found = "a record that is no object"
        if isinstance(record, dict):
            text = record.get(self.text_field)
            if isinstance(text, str):
                name = number if self.id_field is None else record.get(self.id_field)
                if name is not None:
                    return Document(text=text, document_id=str(name), source=path.name)
                raise CorpusError(
                    f"{path}, {where}",
                    expected=f"a value in field '{self.id_field}'",
                    found=f"fields {sorted(record)}",
                    next_step="Name another field with --id-field, or leave the option away.",
                )
            found = f"fields {sorted(record)}"
            if self.text_field in record:
                found = f"a {type(text).__name__} there"
        raise CorpusError(
            f"{path}, {where}",
            expected=f"a string in field '{self.text_field}'",
            found=found,
            next_step="Mend the record, or name another field with --text-field.",
        )


def _kind(path: Path) -> str:
    compressed = path.suffix in (".gz", ".zst")
    suffix = Path(path.stem).suffix if compressed else path.suffix
    return "" if compressed and suffix == ".parquet" else suffix


def _decode(line: bytes, path: Path, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}, line {number}",
            expected="UTF-8",
            found=f"byte 0x{line[error.start]:02x} at column {error.start + 1}",
            next_step="Convert the file to UTF-8 (for example with iconv).",
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
