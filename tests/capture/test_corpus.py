from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from softtargets.capture import Corpus
from softtargets.capture.compressed import open_input
from softtargets.capture.corpus_file import LocalFile
from softtargets.errors import CorpusError, LimitError

LINES = b"".join(
    json.dumps({"text": f"text {i}", "name": f"n{i}"}).encode() + b"\n" for i in range(3)
)


def read(*paths: Path, **options: Any) -> list[tuple[str, str, str]]:
    documents = Corpus(paths=paths, **options).documents()
    return [(str(one.content), one.document_id, one.source) for one in documents]


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
    data = b"line of text\n" * 250_000
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
        ("a.jsonl", b'{"text": "a \\ud800 b"}\n', r"line 1: .* found half a surrogate pair at 2"),
        ("a.jsonl", b"[" * 100_000, r"line 1: expected a JSON object; found maximum recursion"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "\xff"}\n',
            r"line 2: expected UTF-8; found byte 0xff",
        ),
        ("a.txt", b"fine\nnot \xe9 fine\n", r"line 2: expected UTF-8; found byte 0xe9 at column 5"),
        (
            "a.txt.gz",
            gzip.compress(b"x" * 1000, mtime=0)[:-9],
            r"a.txt.gz: expected a readable file",
        ),
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


def test_a_pattern_stands_for_its_files_in_order(tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "a/1.jsonl", "a/3.txt", "a/.hidden.jsonl", "[x].txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(LINES)
    corpus = Corpus(paths=(tmp_path / "**" / "*.jsonl", tmp_path / "a" / "?.txt"))
    assert [str(Path(one).relative_to(tmp_path)) for one in corpus.files] == [
        "a/1.jsonl", "b/2.jsonl", "a/3.txt",
    ]  # fmt: skip
    assert corpus.name == "3 files"
    assert len(corpus.describe()["files"]) == 3
    assert Corpus(paths=(tmp_path / "[x].txt",)).files == (tmp_path / "[x].txt",)
    with pytest.raises(CorpusError, match=r"\*\.json: expected a pattern that some file matches"):
        read(tmp_path / "*.json")


def test_invalid_documents_are_told_and_all_others_read(tmp_path: Path) -> None:
    lines, text = tmp_path / "a.jsonl", tmp_path / "b.txt"
    table = tmp_path / "c.parquet"
    lines.write_bytes(
        b'{"text": "one"}\n{"text": "\xff"}\n{"text": \n[]\n{"text": 1}\n{"text": "two"}\n'
    )
    text.write_bytes(b"\xff")
    rows = pa.array([b"fine", b"\xff", None], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": rows}), table)
    told: list[CorpusError] = []
    documents = Corpus(paths=(lines, text, table)).documents(told.append)
    assert [one.content for one in documents] == ["one", "two", "fine"]
    assert [error.where.removeprefix(str(tmp_path)) for error in told] == [
        "/a.jsonl, line 2", "/a.jsonl, line 3", "/a.jsonl, line 4", "/a.jsonl, line 5",
        "/b.txt, line 1", "/c.parquet, row 1", "/c.parquet, row 2",
    ]  # fmt: skip
    table.write_bytes(table.read_bytes()[:-9])
    with pytest.raises(CorpusError, match=r"c\.parquet: expected a readable file"):
        list(Corpus(paths=(table,)).documents(told.append))


def test_a_document_without_end_is_refused_with_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFTTARGETS_MAX_DOCUMENT_BYTES", "20")
    lines, text = tmp_path / "a.jsonl.zst", tmp_path / "a.txt"
    long = b'{"text": "' + b"a" * 3_000_000 + b'"}\n'
    lines.write_bytes(zstandard.compress(b'{"text": "a"}\n' + long + b'{"text": "b"}\n'))
    with pytest.raises(LimitError, match=f"line 2: .*SOFTTARGETS_MAX_DOCUMENT_BYTES={len(long)}"):
        read(lines)
    text.write_bytes(b"a" * 2_500_000)
    with pytest.raises(LimitError, match=r"one document: .*SOFTTARGETS_MAX_DOCUMENT_BYTES=2500000"):
        read(text)
    table = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a" * 21]}), table)
    with pytest.raises(LimitError, match=r"row 0: .*SOFTTARGETS_MAX_DOCUMENT_BYTES=21"):
        read(table)
    monkeypatch.setenv("SOFTTARGETS_MAX_DOCUMENT_BYTES", str(len(long)))
    assert [len(content) for content, _, _ in read(lines)] == [1, 3_000_000, 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl.gz", "a.parquet"])
def test_what_grows_too_much_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        shared = pa.DictionaryArray.from_arrays(pa.array([0] * 2000), ["a" * 100])
        pq.write_table(pa.table({"text": shared}), path)
    else:
        compress = gzip.compress if name.endswith(".gz") else zstandard.compress
        path.write_bytes(compress((b'{"text": "' + b"a" * 100 + b'"}\n') * 2000))
    assert len(read(path)) == 2000
    monkeypatch.setenv("SOFTTARGETS_MAX_CORPUS_BYTES", "100000")
    with pytest.raises(LimitError, match="SOFTTARGETS_MAX_CORPUS_BYTES"):
        read(path)


@pytest.mark.slow
def test_a_page_of_zst_is_unpacked_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstandard.compress(bytes(300 << 20)))
    with open_input(LocalFile(path)) as file:
        tracemalloc.start()
        assert len(file.read(1 << 20)) == 1 << 20
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 80 << 20


@pytest.mark.parametrize(
    ("record", "options", "message"),
    [
        ({"text": "a", "id": "\ud800"}, {"id_field": "id"}, "its id: expected a text in UTF-8"),
        ({"text": "a", "url": "\udfff"}, {"metadata_fields": ("url",)}, "field 'url': expected"),
        ({"ids": [[1], [1, 2]]}, {"input_ids_field": "ids"}, "found lists within the list"),
        ({"ids": [10**30]}, {"input_ids_field": "ids"}, "other things than whole numbers"),
        ({f"field {number}": 1 for number in range(999)}, {}, r"'field 0', .* \.\.\. "),
    ],
)
def test_a_record_that_cannot_be_stored_is_named(
    record: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record))
    with pytest.raises(CorpusError, match=message) as caught:
        read(path, **options)
    assert len(str(caught.value)) < 1000


def test_metadata_is_kept_beside_every_window_and_so_is_short(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a", "url": "u" * 20_000}))
    with pytest.raises(LimitError, match="SOFTTARGETS_MAX_METADATA_BYTES=20000"):
        read(path, metadata_fields=("url",))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(CorpusError, match="found a pipe or a device"):
        Corpus(paths=(tmp_path / "a.jsonl",)).describe()


def test_a_name_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.jsonl")
    path.write_bytes(LINES)
    with pytest.raises(CorpusError, match="a file name that is no UTF-8"):
        read(path)
