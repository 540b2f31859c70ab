"""What every place promises. A class of tests for each kind of place inherits what is here.

A subclass overrides `make`: it puts files where the place finds them, and returns the place.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from softtargets.errors import BusyError, CorruptionError, InputError, SoftTargetsError
from softtargets.hashes import checksum, hash_bytes
from softtargets.places import Place
from softtargets.places.place import LockGoneError

SHARD = "shards/unit-000000.parquet"
CONTENT = bytes(range(256))
FILES = {"manifest.json": b"{}", SHARD: CONTENT, "shards/unit-000001.parquet": b"one"}
MISSING = ("nothing", "shards/nothing", "nowhere/at/all")

Make = Callable[[Mapping[str, bytes]], Place]


def contents(place: Place, directory: str = "") -> dict[str, bytes | None]:
    """Return everything that a place lists."""
    found: dict[str, bytes | None] = {}
    for path in place.list(directory):
        found |= contents(place, path[:-1]) if path.endswith("/") else {path: place.get(path)}
    return found


def by_number(files: Mapping[str, bytes | None]) -> dict[str, bytes | None]:
    """Return the files of a store as in a directory, where no shard's name has its hash.

    The hashes in names are checked.
    """
    found = {}
    for path, content in files.items():
        name = re.fullmatch(r"(shards/unit-\d{6})-([0-9a-f]{16})\.parquet", path)
        assert name is None or hash_bytes(content or b"").startswith(name[2])
        if path == "manifest.json":
            content = re.sub(rb'("shards/unit-\d{6})-[0-9a-f]{16}', rb"\1", content or b"")
        found[path if name is None else f"{name[1]}.parquet"] = content
    return found


def read_range(place: Place, path: str, start: int, stop: int, xxh3: str | None = None) -> bytes:
    piece = bytearray(stop - start)
    file = place.open(path, len(FILES[path]), "f" * 64)
    try:
        expected = checksum(FILES[path][start:stop]) if xxh3 is None else xxh3
        file.read_into(memoryview(piece), start, expected, "row group 7")
    finally:
        file.close()
    return bytes(piece)


class ReadingTests:
    """What a place does that is read."""

    @pytest.fixture
    def make(self) -> Make:
        raise NotImplementedError

    @pytest.fixture
    def place(self, make: Make) -> Place:
        return make(FILES)

    def test_files_are_read_as_a_whole(self, place: Place) -> None:
        for path, content in FILES.items():
            assert place.get(path) == content
            assert place.get(path, hash_bytes(content)) == content
            assert place.size(path) == len(content)

    def test_what_is_not_there_is_none(self, place: Place) -> None:
        for path in MISSING:
            assert place.get(path) is None
            assert place.size(path) is None
            assert place.list(path) == []

    def test_what_has_another_hash_is_returned_to_be_told_of(self, place: Place) -> None:
        assert place.get(SHARD, "0" * 64) == CONTENT

    def test_directories_are_listed(self, place: Place) -> None:
        assert place.list("") == ["manifest.json", "shards/"]
        assert place.list("shards") == sorted(path for path in FILES if "/" in path)
        assert contents(place) == FILES

    def test_a_listing_tells_sizes(self, place: Place) -> None:
        assert place.sizes("") == {"manifest.json": place.size("manifest.json")}
        assert place.sizes("shards") == {path: place.size(path) for path in FILES if "/" in path}
        assert place.sizes("nowhere") == {}

    def test_ranges_are_read_and_checked(self, place: Place) -> None:
        for start, stop in ((0, 256), (0, 1), (100, 101), (200, 256)):
            assert read_range(place, SHARD, start, stop) == CONTENT[start:stop]
        with pytest.raises(CorruptionError, match=f"{SHARD}, row group 7: expected 9 bytes with"):
            read_range(place, SHARD, 1, 10, xxh3="0" * 16)

    def test_a_file_that_is_missing_is_damage(self, make: Make) -> None:
        place = make({"manifest.json": b"{}"})
        with pytest.raises(CorruptionError, match=rf"{SHARD}.* found no file"):
            read_range(place, SHARD, 0, 10)
        with pytest.raises(CorruptionError, match=rf"{SHARD}: expected 256 bytes; found no file"):
            place.open_uncached(SHARD, 256)

    def test_a_file_of_another_size_is_damage(self, place: Place) -> None:
        with pytest.raises(CorruptionError, match=rf"{SHARD}: expected 255 bytes; found 256"):
            place.open_uncached(SHARD, 255)

    def test_what_is_there_is_read_past_a_cache(self, place: Place) -> None:
        file, piece = place.open_uncached(SHARD, 256, hash_bytes(CONTENT)), bytearray(16)
        file.read_into(memoryview(piece), 16, checksum(CONTENT[16:32]), "row group 0")
        file.close()
        assert piece == CONTENT[16:32]

    def test_messages_name_files(self, place: Place) -> None:
        assert place.where(SHARD) == f"{place}/{SHARD}"

    def test_another_process_reads_the_same(self, place: Place) -> None:
        there: Place = pickle.loads(pickle.dumps(place))
        assert str(there) == str(place)
        assert contents(there) == FILES


WRITES: dict[str, Callable[[Place], object]] = {
    "check_writable": lambda place: place.check_writable(),
    "put": lambda place: place.put(SHARD, b"new"),
    "put_if_absent": lambda place: place.put_if_absent("new", b"new"),
    "get_tagged": lambda place: place.get_tagged(SHARD),
    "put_if_match": lambda place: place.put_if_match(SHARD, b"new", "tag"),
    "delete": lambda place: place.delete(SHARD),
}


class OnlyReadTests(ReadingTests):
    """What a place does that is only read."""

    @pytest.mark.parametrize("name", WRITES)
    def test_nothing_is_written(self, place: Place, name: str) -> None:
        with pytest.raises(InputError, match=r"expected a place to write to; found one that is on"):
            WRITES[name](place)
        assert contents(place) == FILES


def tag_of(place: Place, path: str) -> str:
    found = place.get_tagged(path)
    assert found is not None
    return found[1]


def at_once(act: Callable[[int], Any], times: int = 8) -> list[Any]:
    """Return what calls in as many threads return."""
    with ThreadPoolExecutor(times) as threads:
        return list(threads.map(act, range(times)))


class WritingTests(ReadingTests):
    """What a place does that is written to, too."""

    def test_it_may_be_written_to(self, place: Place) -> None:
        place.check_writable()
        assert contents(place) == FILES

    def test_a_file_is_put_in_the_place_of_another(self, place: Place) -> None:
        for content in (b"new", b"", CONTENT):
            place.put(SHARD, content)
            assert place.get(SHARD) == content
            assert contents(place) == {**FILES, SHARD: content}

    def test_files_go_into_directories_that_are_made(self, place: Place) -> None:
        place.make_directory("")
        for _ in range(2):
            place.make_directory("work/records")
        place.put("work/records/unit-000000.json", b"{}")
        assert place.get("work/records/unit-000000.json") == b"{}"
        assert place.list("work") == ["work/records/"]
        assert not place.make_directory("work/records")

    def test_one_file_is_put_where_none_is(self, place: Place) -> None:
        assert place.put_if_absent("new", b"first")
        assert not place.put_if_absent("new", b"second")
        assert not place.put_if_absent(SHARD, b"second")
        assert contents(place) == {**FILES, "new": b"first"}

    def test_of_many_that_put_where_none_is_one_succeeds(self, place: Place) -> None:
        done = at_once(lambda number: place.put_if_absent("new", b"%d" % number))
        assert sum(done) == 1
        assert place.get("new") == b"%d" % done.index(True)
        assert set(contents(place)) == {*FILES, "new"}

    def test_a_file_is_put_if_it_is_the_one_that_was_read(self, place: Place) -> None:
        assert place.get_tagged("nothing") is None
        assert place.get_tagged(SHARD) == (CONTENT, tag_of(place, SHARD))
        first = tag_of(place, SHARD)
        assert place.put_if_match(SHARD, b"second", first)
        assert not place.put_if_match(SHARD, b"third", first)
        assert [place.put_if_match(path, b"third", first) for path in MISSING] == [False] * 3
        assert contents(place) == {**FILES, SHARD: b"second"}
        place.delete(SHARD)
        assert not place.put_if_match(SHARD, b"third", tag_of(place, "manifest.json"))

    def test_of_many_that_put_for_the_same_one_succeeds(self, place: Place) -> None:
        tag = tag_of(place, SHARD)
        done = at_once(lambda number: place.put_if_match(SHARD, b"%d" % number, tag))
        assert sum(done) == 1
        assert place.get(SHARD) == b"%d" % done.index(True)
        assert set(contents(place)) == set(FILES)

    def test_a_file_is_deleted_once(self, place: Place) -> None:
        for path in (SHARD, SHARD, *MISSING):
            place.delete(path)
        assert contents(place) == {path: FILES[path] for path in FILES if path != SHARD}

    def test_files_are_deleted_together(self, place: Place) -> None:
        place.delete_all([])
        paths = [f"shards/{number}" for number in range(5)]
        for path in paths:
            place.put(path, b"")
        for _ in range(2):
            place.delete_all([*MISSING, *paths, SHARD])
            assert contents(place) == {path: FILES[path] for path in FILES if path != SHARD}

    def test_a_directory_is_removed_when_it_is_empty(self, place: Place) -> None:
        place.remove_directory("shards")
        assert contents(place) == FILES
        for path in place.list("shards"):
            place.delete(path)
        for _ in range(2):
            place.remove_directory("shards")
        assert place.list("") == ["manifest.json"]

    def test_locks_keep_others_out_or_there_are_none(self, place: Place) -> None:
        place.make_directory("work")
        if not place.has_locks:
            if place.has_conditional_puts():
                place.check_locks()
            else:
                with pytest.raises(InputError, match="expected a place with locks or conditional"):
                    place.check_locks()
            with place.lock("work/lock"), place.lock("work/lock"):
                assert place.lock_holder("work/lock") == ""
            return
        place.check_locks()
        with place.lock("work/lock"):
            assert place.lock_holder("work/lock").startswith("process ")
            for shared in (False, True):
                with pytest.raises(BusyError), place.lock("work/lock", shared=shared):
                    pass
        with (
            place.lock("work/lock", shared=True),
            place.lock("work/lock", shared=True),
            pytest.raises(BusyError),
            place.lock("work/lock"),
        ):
            pass
        with pytest.raises(LockGoneError), place.lock("nowhere/lock"):
            pass

    def test_what_fails_is_an_error_of_ours(self, place: Place) -> None:
        """A path that cannot be, where the place has such."""
        for path in ("a\0b", "x" * 300):
            try:
                place.put(path, b"")
            except SoftTargetsError:
                continue
            assert place.get(path) == b""
