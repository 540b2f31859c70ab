"""Input files: which are meant, what is in them, and what keeps them from being read."""

from __future__ import annotations

import glob
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pyarrow as pa
import zstandard

from softtargets.capture.corpus_file import CorpusFile, LocalFile, UrlFile
from softtargets.errors import CorpusError, SoftTargetsError, error_text
from softtargets.places.input_place import find_inputs
from softtargets.places.open_place import is_file_url, path_of_url
from softtargets.texts import is_utf8, shortened
from softtargets.urls import is_url, redacted

_KINDS = (".txt", ".jsonl", ".parquet")


def expand_path(path: Path | str) -> list[CorpusFile]:
    """Return the files that a path, a URL or a pattern names, sorted if it is a pattern.

    Raises:
        CorpusError: there is none behind the URL, or the pattern matches none.
        InputError: nothing opens the URL.
        StoreError: its place cannot be reached.
    """
    if isinstance(path, str) and is_url(path) and not is_file_url(path):
        return _behind(path)
    path = Path(path_of_url(path)) if isinstance(path, str) and is_file_url(path) else Path(path)
    pattern = str(path)
    if path.exists() or not glob.has_magic(pattern):
        return [LocalFile(path)]
    # Path.glob would take hidden files too.
    names = glob.glob(pattern, recursive=True)  # noqa: PTH207
    found = sorted(path for path in map(Path, names) if path.is_file())
    if not found:
        raise _no_match(pattern)
    return [LocalFile(path) for path in found]


def _behind(url: str) -> list[CorpusFile]:
    place, sizes = find_inputs(url)
    if not sizes:
        raise _no_match(redacted(url))
    return [UrlFile(place=place, path=path, num_bytes=size) for path, size in sizes.items()]


def _no_match(pattern: str) -> CorpusError:
    return CorpusError(
        pattern,
        expected="a pattern that some file matches"
        if glob.has_magic(pattern)
        else "a file behind this URL",
        found="none",
        next_step="Check the pattern; ** stands for any directories.",
    )


def file_kind(name: str) -> str:
    """Return the ending of a file's name that says what is in it, without that of compression."""
    path = PurePosixPath(name)
    compressed = path.suffix in (".gz", ".zst")
    suffix = PurePosixPath(path.stem).suffix if compressed else path.suffix
    return "" if compressed and suffix == ".parquet" else suffix


def check_files(files: Iterable[CorpusFile]) -> None:
    """Check that files can be read, and what is in them.

    Raises:
        CorpusError: one is missing, unreadable, or of an unknown kind.
    """
    for file in files:
        with file_errors(file):
            if isinstance(file, LocalFile):
                _check_local(file.path)
            if not is_utf8(file.name):
                raise _unusable(file, "a file name that is no UTF-8")
            if file_kind(file.name) not in _KINDS:
                raise CorpusError(
                    str(file),
                    expected="a name ending in .txt, .jsonl (both also .gz, .zst) or .parquet",
                    found=f"'{''.join(PurePosixPath(file.name).suffixes)}'",
                    next_step="Rename or convert it.",
                )


def _check_local(path: Path) -> None:
    # A pipe gives its content once, and it is read twice: to hash it, and to use it.
    if path.exists() and not path.is_file() and not path.is_dir():
        raise _unusable(path, "a pipe or a device")
    with open(path, "rb"):
        pass


@contextmanager
def file_errors(file: CorpusFile) -> Iterator[None]:
    """Report what keeps a file from being read.

    Raises:
        CorpusError: it cannot be read.
    """
    try:
        yield
    except (
        OSError,
        EOFError,
        MemoryError,
        ValueError,
        zlib.error,
        zstandard.ZstdError,
        pa.ArrowException,
    ) as error:
        if isinstance(error, SoftTargetsError):
            raise
        text = shortened(error_text(error))
        raise _unusable(file, text, is_of_system=bool(getattr(error, "errno", None))) from error


def _unusable(file: CorpusFile | Path, found: str, *, is_of_system: bool = False) -> CorpusError:
    return CorpusError(
        str(file),
        expected="a readable file",
        failed="cannot be read" if is_of_system else "",
        found=found,
        next_step="Check the path, its permissions and that it is complete.",
    )
