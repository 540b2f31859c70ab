from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from softtargets.capture import Corpus
from softtargets.errors import CorpusError

LINES = b"".join(
    json.dumps({"text": f"text {i}", "name": f"n{i}"}).encode() + b"\n" for i in range(3)
)


def read(*paths: Path, **options: Any) -> list[tuple[str, str, str]]:
    documents = Corpus(paths=paths, **options).documents()
    return [(one.text, one.document_id, one.source) for one in documents]


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        ("", lambda data: data),
        (".gz", gzip.compress),
        (".zst", zstandard.compress),
        # Several frames one after another, as parallel compressors and `cat` make them.
        (".zst", lambda data: b"".join(map(zstandard.compress, data.splitlines(keepends=True)))),
    ],
)
def test_text_and_json_lines(tmp_path: Path, suffix: str, write: Callable[[bytes], bytes]) -> None:
    lines, text = tmp_path / f"a.jsonl{suffix}", tmp_path / f"b.txt{suffix}"
    lines.write_bytes(write(LINES))
    text.write_bytes(write("one\r\ntwo\n\nthree \u00e9".encode()))
    assert read(lines, text) == [
        ("text 0", "0", lines.name),
        ("text 1", "1", lines.name),
        ("text 2", "2", lines.name),
        ("one\r\ntwo\n\nthree \u00e9", "0", text.name),
    ]
    assert read(lines, text_field="name", id_field="text")[1] == ("n1", "text 1", lines.name)


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x", "y"], "id": [7, 8], "other": [1.5, 2.5]}), path)
    assert read(path) == [("x", "0", path.name), ("y", "1", path.name)]
    assert read(path, id_field="id") == [("x", "7", path.name), ("y", "8", path.name)]
    with pytest.raises(CorpusError, match=r"a column 'body'; found columns \['text', 'id'"):
        read(path, text_field="body")


def test_a_large_zst_file_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    data = b"line of text\n" * 400_000
    path.write_bytes(zstandard.compress(data))
    assert read(path)[0][0] == data.decode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", LINES + b'{"text": \n', r"a.jsonl, line 4: expected a JSON object"),
        ("a.jsonl", b"\n" + LINES + b"[1]\n", r"line 5: .* found a record that is no object"),
        ("a.jsonl", b'{"body": "x"}\n', r"line 1: .* 'text'; found fields \['body'\]"),
        ("a.jsonl", b'{"text": 3}\n', r"line 1: expected a string .* found a int there"),
        ("a.jsonl", b'{"text": null}\n', r"found a NoneType there"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "\xff"}\n',
            r"line 2: expected UTF-8; found byte 0xff",
        ),
        ("a.txt", b"fine\nnot \xe9 fine\n", r"line 2: expected UTF-8; found byte 0xe9 at column 5"),
        ("a.txt.gz", gzip.compress(b"x" * 1000)[:-9], r"a.txt.gz: expected a readable file"),
        ("a.txt.gz", b"no gzip", r"a.txt.gz: expected a readable file; found Not a gzipped file"),
        ("a.txt.zst", zstandard.compress(bytes(range(256)) * 99)[:-9], r"ends within a compressed"),
        ("a.txt.zst", b"no zstd at all", r"a.txt.zst: expected a readable file"),
        ("a.parquet", b"PAR1 but no more", r"a.parquet: expected a readable file"),
        ("a.csv", b"x", r"a.csv: expected a name ending in .txt, .jsonl .* found '.csv'"),
        ("a.parquet.gz", b"x", r"found '.parquet.gz'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read(path)


def test_a_missing_id_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    with pytest.raises(CorpusError, match="a value in field 'id'; found fields"):
        read(path, id_field="id")


@pytest.mark.parametrize(
    ("name", "found"), [("nowhere.txt", "No such file"), (".", "Is a directory")]
)
def test_a_missing_file_is_named(tmp_path: Path, name: str, found: str) -> None:
    for call in (Corpus(paths=(tmp_path / name,)).describe, lambda: read(tmp_path / name)):
        with pytest.raises(CorpusError, match=found):
            call()


def test_the_description_follows_content_and_order_not_the_place(tmp_path: Path) -> None:
    for directory in ("one", "two"):
        (tmp_path / directory).mkdir()
        for name in ("a.txt", "b.txt"):
            (tmp_path / directory / name).write_text(name)

    def describe(directory: str, *names: str) -> object:
        return Corpus(paths=tuple(tmp_path / directory / name for name in names)).describe()

    assert describe("one", "a.txt", "b.txt") == describe("two", "a.txt", "b.txt")
    assert describe("one", "a.txt", "b.txt") != describe("one", "b.txt", "a.txt")
    (tmp_path / "two" / "a.txt").write_text("c.txt")
    assert describe("one", "a.txt") != describe("two", "a.txt")
