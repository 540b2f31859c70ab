"""Parts of a Parquet file as files of this machine.

What reads a Parquet file maps it. One behind a URL comes a row group at a time: its footer and what
is read of that row group are copied to where they are in it, into a file that has holes elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq

from softtargets.capture.corpus_file import CorpusFile, LocalFile, UrlFile
from softtargets.store.parquet_footer import FOOTER_END, FOOTER_LIMIT
from softtargets.store.parquet_pages import ParquetPages

_COPIED_BYTES = 1 << 23


def group_rows(file: CorpusFile) -> list[int]:
    """Return how many rows each row group of a file has.

    Raises:
        OSError, ValueError, StoreError: it cannot be read, or is none of Parquet.
        LimitError: its footer is larger than it is trusted to be.
    """
    with _with_footer(file) as path:
        return _group_rows(ParquetPages(path, str(file)), path)


def _group_rows(checked: ParquetPages, path: Path) -> list[int]:
    # A footer that was not checked could end the process.
    metadata = pq.read_metadata(path)
    return [metadata.row_group(group).num_rows for group in range(len(checked.footer.groups))]


def local_parts(
    file: CorpusFile, names: Sequence[str], row_groups: tuple[int, ...] | None
) -> Iterator[tuple[Path, list[int]]]:
    """Yield files that have row groups of a file, and which those are; one at a time.

    Those without rows are left out: they may have no pages, and say nothing of where those are.

    Args:
        file: that is read.
        names: columns that are read.
        row_groups: that are read; None for all.

    Raises:
        OSError, ValueError, StoreError: it cannot be read, or is none of Parquet.
        LimitError: its footer is larger than it is trusted to be.
    """
    with _with_footer(file) as path:
        pages = ParquetPages(path, str(file))
        num_rows = _group_rows(pages, path)
        groups = range(len(num_rows)) if row_groups is None else row_groups
        own = [group for group in groups if num_rows[group]]
        if isinstance(file, LocalFile) or not own:
            yield path, own
            return
        assert isinstance(file, UrlFile)
        for group in own:
            ranges = [*pages.ranges(names, group), _footer_range(file)]
            with _copied(file, ranges) as part:
                yield part, [group]


@contextmanager
def _with_footer(file: CorpusFile) -> Iterator[Path]:
    """Yield a file that has the footer of a file."""
    if isinstance(file, LocalFile):
        yield file.path
        return
    assert isinstance(file, UrlFile)
    with _copied(file, [_footer_range(file)]) as path:
        yield path


def _footer_range(file: UrlFile) -> tuple[int, int]:
    """Return where the footer of a file is, with its length; all of a file that is too short."""
    if file.num_bytes < FOOTER_END:
        return 0, file.num_bytes
    end = file.place.read_range(file.path, file.num_bytes - FOOTER_END, FOOTER_END)
    size = int.from_bytes(end[:4], "little")
    if size > file.num_bytes - FOOTER_END:
        # What looks into the end says what is wrong with it.
        return file.num_bytes - FOOTER_END, file.num_bytes
    FOOTER_LIMIT.check(f"{file}, footer", size)
    return file.num_bytes - FOOTER_END - size, file.num_bytes


@contextmanager
def _copied(file: UrlFile, ranges: Sequence[tuple[int, int]]) -> Iterator[Path]:
    """Yield a file of the size of another, with ranges of it and holes."""
    with TemporaryDirectory(prefix="softtargets-") as directory:
        path = Path(directory) / "part.parquet"
        with open(path, "wb") as copy:
            copy.truncate(file.num_bytes)
            for start, stop in ranges:
                copy.seek(start)
                for offset in range(start, stop, _COPIED_BYTES):
                    num_bytes = min(_COPIED_BYTES, stop - offset)
                    copy.write(file.place.read_range(file.path, offset, num_bytes))
        yield path
