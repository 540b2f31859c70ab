"""Every place keeps what all promise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import fsspec
import pytest
from pyarrow import fs

from softtargets.errors import InputError, StoreError
from softtargets.places import Directory, Place, open_place, place_to_write, retries
from tests.object_store import Bucket
from tests.places.conformance import FILES, Make, OnlyReadTests, WritingTests, contents


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait hardly at all before another attempt."""
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)


def write(root: Path, files: Mapping[str, bytes]) -> None:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


class TestDirectory(WritingTests):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        def make(files: Mapping[str, bytes]) -> Place:
            write(tmp_path / "store", files)
            return place_to_write(tmp_path / "store")

        return make

    def test_a_directory_is_made_with_those_that_it_is_in(self, tmp_path: Path) -> None:
        place = Directory(tmp_path / "a" / "b")
        place.check_writable()
        assert not (tmp_path / "a").exists()
        assert place.make_directory("")
        assert not place.make_directory("")
        assert place.make_directory("work/plan")
        place.remove_directory("work/plan")
        place.remove_directory("work")
        place.remove_directory("")
        assert not (tmp_path / "a" / "b").exists()

    def test_a_file_is_no_place(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match="expected a directory, or nothing yet; found a file"):
            Directory(tmp_path / "file").check_writable()

    @pytest.mark.parametrize("name", ["put_if_absent", "put_if_match"])
    def test_a_link_is_not_written_through(self, make: Make, tmp_path: Path, name: str) -> None:
        place = make(FILES)
        (tmp_path / "secret").write_bytes(b"secret")
        (tmp_path / "store" / "link").symlink_to("../secret")
        tag = place.get_tagged("manifest.json")
        assert tag is not None
        with pytest.raises(StoreError, match="found a symbolic link"):
            if name == "put_if_absent":
                place.put_if_absent("link", b"new")
            else:
                place.put_if_match("link", b"new", tag[1])
        assert (tmp_path / "secret").read_bytes() == b"secret"


class TestObjectStore(OnlyReadTests):
    @pytest.fixture
    def make(self, bucket: Bucket) -> Make:
        def make(files: Mapping[str, bytes]) -> Place:
            write(bucket.directory / "store", files)
            return open_place(bucket.url())

        return make


class TestCachedObjectStore(OnlyReadTests):
    @pytest.fixture
    def make(self, bucket: Bucket, tmp_path: Path) -> Make:
        def make(files: Mapping[str, bytes]) -> Place:
            write(bucket.directory / "store", files)
            return open_place(bucket.url(), cache_dir=tmp_path / "cache")

        return make


class TestArrowFileSystem(OnlyReadTests):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        def make(files: Mapping[str, bytes]) -> Place:
            write(tmp_path / "store", files)
            return open_place(str(tmp_path / "store"), filesystem=fs.LocalFileSystem())

        return make


class TestFsspec(OnlyReadTests):
    @pytest.fixture
    def make(self) -> Iterator[Make]:
        memory = fsspec.filesystem("memory")

        def make(files: Mapping[str, bytes]) -> Place:
            for path, content in files.items():
                memory.pipe(f"/a/store/{path}", content)
            return open_place("memory://a/store")

        yield make
        memory.store.clear()


def test_a_place_is_where_it_leads_itself(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    place = Directory(tmp_path)
    assert open_place(place) is place_to_write(place) is place
    assert contents(open_place(f"file://{tmp_path}")) == FILES
    with pytest.raises(InputError, match="expected a store behind a URL or a file system"):
        open_place(place, cache_dir=tmp_path / "cache")
