"""The headers of pages: read as Parquet writes them, and nothing else taken for one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softtargets.errors import CorruptionError
from softtargets.store.pages import check_unpacked, column_pages

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*/store/**/*.parquet"))


def number(value: int) -> bytes:
    """Return a number as Thrift's compact protocol has it."""
    value, parts = value << 1 if value >= 0 else (-value << 1) - 1, []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def header(unpacked: int, packed: int, num_values: int, encoding: int = 0) -> bytes:
    """Return the header of a data page."""
    own = b"\x15" + number(num_values) + b"\x15" + number(encoding) + b"\x15\x06\x15\x06\x00"
    return b"\x15\x00\x15" + number(unpacked) + b"\x15" + number(packed) + b"\x2c" + own + b"\x00"


def footer(packed: int, num_values: int) -> Any:
    """Return what a footer says of a file with one column of numbers."""
    chunk = SimpleNamespace(
        path_in_schema="a",
        physical_type="INT32",
        num_values=num_values,
        data_page_offset=0,
        dictionary_page_offset=None,
        total_compressed_size=packed,
    )
    leaf = SimpleNamespace(max_repetition_level=0, length=0)
    group = SimpleNamespace(num_rows=num_values, column=lambda _: chunk)
    schema = SimpleNamespace(column=lambda _: leaf)
    return SimpleNamespace(num_columns=1, row_group=lambda _: group, schema=schema)


def check(content: bytes, num_values: int) -> None:
    found = footer(len(content), num_values)
    check_unpacked(memoryview(content), found, {0: range(len(content))}, ["a"], "here")


@pytest.mark.slow
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parts[-4]}/{path.name}")
def test_all_golden_files_are_read_to_their_last_page(path: Path) -> None:
    content, metadata = memoryview(path.read_bytes()), pq.read_metadata(path)
    names = metadata.schema.to_arrow_schema().names
    groups = dict.fromkeys(range(metadata.num_row_groups), range(len(content)))
    found = list(column_pages(content, metadata, groups, names, "here"))
    assert len(found) == metadata.num_row_groups * metadata.num_columns
    check_unpacked(content, metadata, groups, names, "here")


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_what_is_told_bounds_what_pyarrow_takes(version: str) -> None:
    rng = np.random.default_rng(0)
    texts = pa.array(["t" * int(one) for one in rng.integers(0, 50, 5000)])
    table = pa.table({"number": rng.integers(0, 9, 5000), "text": texts})
    for encodings in ({}, {"number": "DELTA_BINARY_PACKED", "text": "DELTA_BYTE_ARRAY"}):
        sink = pa.BufferOutputStream()
        pq.write_table(
            table,
            sink,
            use_dictionary=not encodings,
            column_encoding=encodings or None,
            data_page_version=version,
            data_page_size=4096,
            write_statistics=True,
        )
        content = memoryview(sink.getvalue().to_pybytes())
        metadata = pq.read_metadata(pa.BufferReader(content))
        groups = {0: range(len(content))}
        for name, pages in column_pages(content, metadata, groups, table.column_names, "here"):
            assert pages.num_values == 5000
            assert pages.unpacked_bytes() >= table.column(name).nbytes


def test_a_page_that_is_as_it_says_passes() -> None:
    check(header(40, 3, 10) + b"abc", 10)
    check(2 * (header(40, 3, 10) + b"abc"), 20)


@pytest.mark.parametrize(
    ("content", "num_values", "found"),
    [
        (header(40, 3, 2**31 - 1) + b"abc", 10, "found 2,147,483,647"),
        (header(40, 3, 10) + b"abc", 20, "found 10"),
        (header(40, 4, 10) + b"abc", 10, "does not fit"),
        (header(40, -1, 10) + b"abc", 10, "does not fit"),
        (header(-40, 3, 10) + b"abc", 10, "does not fit"),
        (header(40, 3, -10) + b"abc", -10, "does not fit"),
        (header(40, 3, 10) + b"abc" + b"\x15", 10, "cut off"),
        (b"\x15\x06" + header(40, 3, 10)[2:] + b"abc", 10, "cut off|8"),
        (b"\x15\x02" + header(40, 3, 10)[2:] + b"abc", 10, "1"),
        (b"\x05\x00\x00" + header(40, 3, 10), 10, "out of order"),
        (b"\x19\x00" + header(40, 3, 10), 10, "a list or a map"),
        (b"\x1b\x00" + header(40, 3, 10), 10, "a list or a map"),
        (b"\x1c" * 50, 10, "too many parts"),
        (b"\x15" + b"\xff" * 20, 10, "more than 64 bits"),
        (b"\x18\xff\xff\xff\x7f", 10, "cut off"),
    ],
)
def test_what_is_no_header_is_refused(content: bytes, num_values: int, found: str) -> None:
    with pytest.raises(CorruptionError, match=rf"here, column a: .*{found}"):
        check(content, num_values)


@pytest.mark.parametrize("place", [range(1, 50), range(4)])
def test_pages_outside_their_row_group_are_refused(place: range) -> None:
    content = header(40, 3, 10) + b"abc"
    found = footer(len(content), 10)
    with pytest.raises(CorruptionError, match="within the row group; found bytes 0 to"):
        check_unpacked(memoryview(content), found, {0: place}, ["a"], "here")
