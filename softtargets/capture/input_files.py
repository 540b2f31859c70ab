"""Input files: which are meant, what is in them, and what keeps them from being read."""

from __future__ import annotations

import glob
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import zstandard

from softtargets.errors import CorpusError, SoftTargetsError, error_text
from softtargets.texts import is_utf8, shortened

_KINDS = (".txt", ".jsonl", ".parquet")


def expand_path(path: Path) -> list[Path]:
    """Return the files that a pattern matches, sorted; a path that is no pattern as it is.

    Raises:
        CorpusError: the pattern matches none.
    """
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


def file_kind(path: Path) -> str:
    """Return the ending of a file's name that says what is in it, without that of compression."""
    compressed = path.suffix in (".gz", ".zst")
    suffix = Path(path.stem).suffix if compressed else path.suffix
    return "" if compressed and suffix == ".parquet" else suffix


def check_files(paths: Iterable[Path]) -> None:
    """Check that files can be read, and what is in them.

    Raises:
        CorpusError: one is missing, unreadable, or of an unknown kind.
    """
    for path in paths:
        with file_errors(path):
            # A pipe gives its content once, and it is read twice: to hash it, and to use it.
            if path.exists() and not path.is_file() and not path.is_dir():
                raise _unusable(path, "a pipe or a device")
            with open(path, "rb"):
                pass
            if not is_utf8(path.name):
                raise _unusable(path, "a file name that is no UTF-8")
            if file_kind(path) not in _KINDS:
                raise CorpusError(
                    str(path),
                    expected="a name ending in .txt, .jsonl (both also .gz, .zst) or .parquet",
                    found=f"'{''.join(path.suffixes)}'",
                    next_step="Rename or convert it.",
                )


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
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
        raise _unusable(path, text, is_of_system=bool(getattr(error, "errno", None))) from error


def _unusable(path: Path, found: str, *, is_of_system: bool = False) -> CorpusError:
    return CorpusError(
        str(path),
        expected="a readable file",
        failed="cannot be read" if is_of_system else "",
        found=found,
        next_step="Check the path, its permissions and that it is complete.",
    )
