"""A corpus behind URLs: the documents and the plan of the same files on this machine."""

from __future__ import annotations

import glob
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fsspec.implementations.memory import MemoryFileSystem

from softtargets.capture import Corpus, build
from softtargets.capture.input_files import expand_path
from softtargets.engines import Processes
from softtargets.errors import CorpusError, InputError, SoftTargetsError, StoreError
from softtargets.places import input_place, place_to_write, retries
from softtargets.store.parquet_pages import ParquetPages
from tests.capture.plans import cut_small, plan_at_once, plan_files, write_files
from tests.fakes import TEXTS, FakeTeacher, build_config, write_corpus
from tests.object_store import KEY, SECRET, Fault, Proxy, make_bucket


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)


@pytest.fixture
def memory() -> Iterator[str]:
    """The URL of an empty directory in this process's memory."""
    yield "memory://corpus"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


Upload = Callable[[Path], str]


@pytest.fixture
def upload(object_proxy: Proxy) -> Upload:
    """Copy a directory to a bucket, and return its URL with a place for more of the path."""

    def copy(directory: Path) -> str:
        bucket = make_bucket(object_proxy.server_port)
        place = place_to_write(object_proxy.url(f"{bucket}/in"))
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                place.put(str(path.relative_to(directory)), path.read_bytes())
        object_proxy.requests.clear()
        return object_proxy.url(f"{bucket}/in/{{}}")

    return copy


def contents(corpus: Corpus) -> list[tuple[Any, ...]]:
    return [(one.content, one.document_id, one.source) for one in corpus.documents()]


def put(url: str, content: bytes) -> str:
    with MemoryFileSystem().open(url, "wb") as file:
        file.write(content)
    return url


PATTERNS = [
    "*.jsonl", "**/*.jsonl", "**", "a/*", "*/b*.jsonl", "[ab]/*.txt", "[!a]/**", ".*", "a/c/*.gz",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_means_what_it_means_on_this_machine(
    tmp_path: Path, memory: str, pattern: str
) -> None:
    names = ("x.jsonl", "a/b.jsonl", "a/b-2.jsonl", "a/b.txt", "a.b/b.jsonl", ".x.jsonl", "b/c.txt")
    for name in (*names, "a/c/d.jsonl.gz", "a/.c/e.jsonl", "b/c/b.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
        put(f"{memory}/{name}", name.encode())
    names_here = glob.glob(f"{tmp_path}/{pattern}", recursive=True)  # noqa: PTH207
    here = sorted(path for path in map(Path, names_here) if path.is_file())
    there = expand_path(f"{memory}/{pattern}")
    assert [str(file) for file in there] == [
        f"{memory}/{path.relative_to(tmp_path)}" for path in here
    ]
    assert [file.num_bytes for file in there] == [path.stat().st_size for path in here]


def test_every_kind_of_file_is_read(tmp_path: Path, memory: str) -> None:
    paths = list(write_files(tmp_path / "corpus"))
    lines = (tmp_path / "corpus/b.jsonl").read_bytes()
    for name, content in (
        ("e.jsonl.zst", zstandard.compress(lines)),
        ("f.txt.gz", gzip.compress(b"one\ntwo")),
        ("g.parquet", b""),
    ):
        paths.append(tmp_path / "corpus" / name)
        paths[-1].write_bytes(content)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), paths[-1])
    urls = [
        put(f"{memory}/{path.relative_to(tmp_path / 'corpus')}", path.read_bytes())
        for path in paths
    ]
    here, there = Corpus(paths=tuple(paths)), Corpus(paths=tuple(urls))
    assert contents(there) == contents(here)
    assert there.describe() == here.describe()
    assert there.content_bytes == here.content_bytes
    for slice_bytes in (1, 300, 10**6):
        ours, theirs = here.slices(slice_bytes), there.slices(slice_bytes)
        assert [own.describe() for own in theirs] == [own.describe() for own in ours]
        found = [one for own in theirs for one in there.documents(own=own)]
        assert found == list(here.documents())


def test_a_url_of_a_local_file_is_that_file(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "a b.jsonl")
    corpus = Corpus(paths=(f"file://{str(path).replace(' ', '%20')}",))
    assert contents(corpus) == contents(Corpus(paths=(path,)))
    assert corpus.files == (path,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nothing.jsonl",
            "memory://corpus/nothing.jsonl: expected a file behind this URL; found n",
        ),
        ("no*.jsonl", r"memory://corpus/no\*.jsonl: expected a pattern that some file matches"),
        ("a.csv", "memory://corpus/a.csv: expected a name ending in .txt"),
        ("a.jsonl", "memory://corpus/a.jsonl, line 1: expected a JSON object"),
        ("a.parquet", "memory://corpus/a.parquet: expected a readable file; found no Parquet file"),
        ("short.parquet", "memory://corpus/short.parquet: expected a readable file; found no Parq"),
        ("long.parquet", "memory://corpus/long.parquet: .* found a footer longer than the file"),
    ],
)
def test_what_is_wrong_is_named(memory: str, name: str, message: str) -> None:
    for own, content in (
        ("a.csv", b"x"),
        ("a.jsonl", b"{\n"),
        ("a.parquet", b"PAR1 and no more of it"),
        ("short.parquet", b"PAR1"),
        ("long.parquet", b"PAR1" + (1 << 20).to_bytes(4, "little") + b"PAR1"),
    ):
        put(f"{memory}/{own}", content)
    with pytest.raises(CorpusError, match=message):
        contents(Corpus(paths=(f"{memory}/{name}",)))


@pytest.mark.parametrize(
    "url", ["zip://*.jsonl::memory://corpus/a.zip", "https://host/a/*.jsonl?key=1", "s3://bucket-*"]
)
def test_a_pattern_whose_directory_has_no_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="expected a pattern below a directory that a URL names"):
        contents(Corpus(paths=(url,)))


def test_an_answer_that_is_too_short_is_asked_for_again(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = Corpus(paths=(put(f"{memory}/a.jsonl", b'{"text": "one"}\n'),))
    real, cuts = MemoryFileSystem.cat_file, [5, 0]

    def cat_file(*args: Any, **options: Any) -> bytes:
        content: bytes = real(*args, **options)
        return content[: cuts.pop()] if cuts else content

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    assert contents(corpus) == [("one", "0", "a.jsonl")]
    assert not cuts


@pytest.mark.slow
@pytest.mark.parametrize("engine", [None, Processes(2)], ids=["one", "two"])
def test_the_plan_is_that_of_the_same_files_here(
    tmp_path: Path, upload: Upload, monkeypatch: pytest.MonkeyPatch, engine: Any
) -> None:
    """Planned at once, and in slices by one process and by two."""
    paths = write_files(tmp_path / "corpus")
    url = upload(tmp_path / "corpus")
    names = [str(path.relative_to(tmp_path / "corpus")) for path in paths]
    here = build_config(tmp_path, corpus=Corpus(paths=paths))
    there = build_config(tmp_path, corpus=Corpus(paths=tuple(map(url.format, names))))
    expected = plan_at_once(here, FakeTeacher(), tmp_path / "once")
    assert plan_at_once(there, FakeTeacher(), tmp_path / "there") == expected
    cut_small(monkeypatch)
    assert plan_files(there, FakeTeacher(), tmp_path / "staged", engine) == expected


@pytest.mark.slow
def test_a_store_of_a_pattern_is_the_same_store(tmp_path: Path, upload: Upload) -> None:
    write_files(tmp_path / "corpus")
    url = upload(tmp_path / "corpus")
    ours = Corpus(paths=(tmp_path / "corpus/**/*.jsonl*", tmp_path / "corpus/*.parquet"))
    theirs = Corpus(paths=(url.format("**/*.jsonl*"), url.format("*.parquet")))
    manifests = []
    for corpus, name in ((ours, "ours"), (theirs, "theirs")):
        store = tmp_path / name
        build(build_config(tmp_path, corpus=corpus, output=store), FakeTeacher())
        manifests.append((store / "manifest.json").read_bytes())
    assert manifests[0] == manifests[1]


@pytest.mark.slow
def test_a_file_comes_in_pieces_and_a_cut_connection_is_made_good(
    tmp_path: Path, upload: Upload, object_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus").mkdir()
    path = write_corpus(tmp_path / "corpus/a.jsonl", TEXTS * 20)
    url = upload(tmp_path / "corpus").format("a.jsonl")
    monkeypatch.setattr(input_place, "_READ_BYTES", 1000)
    cut = object_proxy.inject(Fault(kind="cut", path="a.jsonl", first_byte=2000))
    assert contents(Corpus(paths=(url,))) == contents(Corpus(paths=(path,)))
    assert cut.num_done == 1
    size = path.stat().st_size
    asked = [first for method, _, first in object_proxy.requests if method == "GET"]
    assert asked == sorted([*range(0, size, 1000), 2000])
    object_proxy.inject(Fault(kind="cut", path="a.jsonl", first_byte=2000, times=10**6))
    with pytest.raises(
        StoreError, match=r"in/a.jsonl, 1,000 bytes at 2,000: .* 8 attempts"
    ) as found:
        contents(Corpus(paths=(url,)))
    assert SECRET not in str(found.value)


@pytest.mark.slow
def test_only_the_row_groups_of_a_slice_are_read(
    tmp_path: Path, upload: Upload, object_proxy: Proxy
) -> None:
    (tmp_path / "corpus").mkdir()
    path = tmp_path / "corpus/a.parquet"
    table = pa.table({"text": [f"text {row} " * 99 for row in range(8)], "other": ["x" * 999] * 8})
    pq.write_table(table, path, row_group_size=2, compression=None)
    corpus = Corpus(paths=(upload(tmp_path / "corpus").format("a.parquet"),))
    slices = corpus.slices(path.stat().st_size)
    assert len(slices) == 4
    object_proxy.requests.clear()
    assert [one.document_id for one in corpus.documents(own=slices[2])] == ["4", "5"]
    pages = ParquetPages(path)
    [(start, _)] = pages.ranges(["text"], 2)
    firsts = {first for method, _, first in object_proxy.requests if method == "GET"}
    assert {first for first in firsts if first is not None and first < start} == set()
    ends = {stop for group in range(4) for _, stop in pages.ranges(["other"], group)}
    assert {first for first in firsts if first is not None and start < first < max(ends)} == set()


@pytest.mark.slow
def test_credentials_are_in_no_message(tmp_path: Path, upload: Upload) -> None:
    (tmp_path / "corpus").mkdir()
    write_corpus(tmp_path / "corpus/a.jsonl", ["a"])
    (tmp_path / "corpus/b.csv").touch()
    (tmp_path / "corpus/c.jsonl").write_text("{")
    url = upload(tmp_path / "corpus")
    texts = []
    for name in ("nothing.jsonl", "x*.jsonl", "b.csv", "c.jsonl", "[a"):
        corpus = Corpus(paths=(url.format(name),))
        texts += [repr(corpus)]
        with pytest.raises(SoftTargetsError) as caught:
            contents(corpus)
        texts.append(str(caught.value))
    corpus = Corpus(paths=(url.format("a*.jsonl"),))
    texts += [corpus.name, repr(build_config(tmp_path, corpus=corpus)), str(corpus.describe())]
    assert not [text for text in texts if KEY in text or SECRET in text]
    assert "in/a.jsonl" in corpus.name
