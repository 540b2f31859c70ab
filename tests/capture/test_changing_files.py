"""A file that changes while a corpus is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softtargets.capture import Corpus
from softtargets.capture import corpus as corpus_module
from softtargets.errors import CorpusError
from tests.capture.test_url_corpus import contents, memory, put

__all__ = ["memory"]


@pytest.mark.parametrize("kind", ["here", "there"])
def test_a_file_that_changes_is_noticed(tmp_path: Path, memory: str, kind: str) -> None:
    lines = b'{"text": "one"}\n{"text": "two"}\n'
    path = tmp_path / "a.jsonl"
    url: Any = path if kind == "here" else f"{memory}/a.jsonl"

    def write(content: bytes) -> None:
        if kind == "there":
            put(url, content)
            return
        path.write_bytes(content)
        # The clock of some file systems is slow.
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))

    write(lines)
    corpus = Corpus(paths=(url,))
    corpus.describe()
    assert len(contents(corpus)) == 2
    write(lines.replace(b"two", b"six"))
    with pytest.raises(CorpusError, match=r"a\.jsonl: expected a file that nobody changes"):
        contents(corpus)
    corpus.describe()
    documents = corpus.documents()
    next(documents)
    write(lines)
    with pytest.raises(CorpusError, match=r"a\.jsonl: expected a file that nobody changes"):
        list(documents)


def test_half_of_another_version_is_no_reason_to_blame_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "_READ_BYTES", 1)
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["a" * 2000] * 40})
    pq.write_table(table, path, row_group_size=1, compression=None, use_dictionary=False)
    documents = Corpus(paths=(path,)).documents()
    next(documents)
    with open(path, "r+b") as file:
        file.write(b"no Parquet " * (path.stat().st_size // 11 - 1))
    with pytest.raises(CorpusError, match="expected a file that nobody changes") as caught:
        list(documents)
    assert isinstance(caught.value.__cause__, OSError)


def test_a_file_that_has_grown_since_it_was_listed_is_not_read_in_part(memory: str) -> None:
    lines = b'{"text": "one"}\n{"text": "two"}\n'
    corpus = Corpus(paths=(put(f"{memory}/a.jsonl", lines),))
    assert corpus.content_bytes == len(lines)
    put(f"{memory}/a.jsonl", lines * 2)
    with pytest.raises(CorpusError, match="nobody changes while it is read, of 32 bytes"):
        contents(corpus)
