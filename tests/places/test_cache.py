from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from softtargets.errors import InputError, StoreError
from softtargets.hashes import checksum
from softtargets.places.cache import RangeCache
from tests.processes import CONTEXT


def content_of(number: int, num_bytes: int = 1000) -> bytes:
    return np.random.default_rng(number).bytes(num_bytes)


def key_of(number: int) -> str:
    content = content_of(number)
    return RangeCache.key("f" * 64, "shards/a", number, len(content), checksum(content))


def keep(cache: RangeCache, number: int) -> None:
    cache.write(key_of(number), memoryview(content_of(number)))


def find(cache: RangeCache, number: int) -> bool | None:
    content = content_of(number)
    piece = memoryview(bytearray(len(content)))
    found = cache.read_into(key_of(number), piece, checksum(content))
    assert not found or piece == content
    return found


def held_bytes(cache: RangeCache) -> int:
    """Return the size of all ranges, half-written ones too, while nobody changes them."""
    with cache._account():
        return sum(one.stat().st_size for one in cache.directory.iterdir() if one.suffix)


def file_of(cache: RangeCache, number: int) -> Path:
    return cache.directory / f"{key_of(number)}.range"


def test_what_was_kept_is_found_by_other_caches_of_the_directory(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path / "new" / "cache", 10_000)
    assert find(cache, 0) is None
    keep(cache, 0)
    assert find(cache, 0) is True
    assert find(RangeCache(cache.directory, 5_000), 0) is True
    assert find(cache, 1) is None


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "longer", "swap", "directory"])
def test_what_is_wrong_is_deleted(tmp_path: Path, damage: str) -> None:
    cache = RangeCache(tmp_path, 10_000)
    keep(cache, 0)
    keep(cache, 1)
    path = file_of(cache, 0)
    content = path.read_bytes()
    if damage == "directory":
        path.unlink()
        path.mkdir()
        with pytest.raises(StoreError, match="expected a file; found a directory"):
            find(cache, 0)
        return
    path.write_bytes(
        {
            "flip": bytes([content[0] ^ 1]) + content[1:],
            "cut": content[:-1],
            "empty": b"",
            "longer": content + b"\0",
            "swap": file_of(cache, 1).read_bytes(),
        }[damage]
    )
    assert find(cache, 0) is False
    assert not path.exists()
    assert find(cache, 0) is None
    assert find(cache, 1) is True
    keep(cache, 0)
    assert find(cache, 0) is True


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 10_000)
    for number in range(10):
        keep(cache, number)
        os.utime(file_of(cache, number), ns=(number, number))
    assert held_bytes(cache) == 10_000
    assert find(cache, 0) is True
    keep(cache, 10)
    assert find(cache, 0) is True
    assert find(cache, 10) is True
    assert find(cache, 1) is None
    left = [number for number in range(11) if find(cache, number)]
    assert left == [0, *range(11 - len(left) + 1, 11)]
    assert held_bytes(cache) <= 10_000


def test_only_what_a_cache_wrote_is_deleted(tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("mine.txt", "mine.range", "f" * 63 + ".range")]
    for path in others:
        path.write_bytes(bytes(50_000))
    cache = RangeCache(tmp_path, 2_000)
    for number in range(5):
        keep(cache, number)
    assert [path for path in others if path.exists()] == others
    assert sum(find(cache, number) is True for number in range(5)) in (1, 2)


def test_a_smaller_limit_holds_from_the_start(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 10_000)
    for number in range(10):
        keep(cache, number)
    assert held_bytes(RangeCache(tmp_path, 3_000)) <= 3_000


@pytest.mark.parametrize("text", [b"", b"\0" * 21, b"000012"])
def test_a_spoiled_account_is_made_anew(tmp_path: Path, text: bytes) -> None:
    cache = RangeCache(tmp_path, 3_000)
    for number in range(3):
        keep(cache, number)
    (tmp_path / "size").write_bytes(text)
    for number in range(3, 9):
        keep(cache, number)
        assert held_bytes(cache) <= 3_000


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 3_000)
    temporary = tmp_path / f"new.{0:032x}.tmp"
    temporary.write_bytes(bytes(1_000))
    for number in range(4):
        keep(cache, number)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", "", *[".range"] * 2]
    temporary.write_bytes(bytes(1_000))
    (tmp_path / "size").unlink()
    RangeCache(tmp_path, 3_000)
    assert not temporary.exists()


def fill(directory: Path, start: int, most: int) -> int:
    """Keep and find ranges; return how much the cache held at most."""
    cache = RangeCache(directory, most)
    largest = 0
    for number in range(start, start + 60):
        keep(cache, number % 80)
        find(cache, (number * 7) % 80)
        largest = max(largest, held_bytes(cache))
    return largest


@pytest.mark.slow
def test_three_processes_keep_to_the_limit(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, CONTEXT) as processes:
        running = [processes.submit(fill, tmp_path, start, 20_000) for start in (0, 20, 40)]
        assert max(one.result() for one in running) <= 20_000
    assert 15_000 < held_bytes(RangeCache(tmp_path, 20_000)) <= 20_000
    cache = RangeCache(tmp_path, 20_000)
    assert all(find(cache, number) is not False for number in range(80))


@pytest.mark.slow
def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from softtargets.places.cache import RangeCache\n"
        "cache = RangeCache(Path(sys.argv[1]), 9000)\n"
        "with cache.fetching('00000000'), cache._account():\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        process.kill()
    cache = RangeCache(tmp_path, 9_000)
    with cache.fetching("00000000"):
        keep(cache, 0)


def test_a_full_disk_is_an_error_that_says_so(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 10_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(StoreError, match=r"cache .*: 1,000 bytes cannot be written"):
            keep(cache, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert held_bytes(cache) == 0
    keep(cache, 0)
    assert find(cache, 0) is True


def test_a_directory_that_cannot_be_is_refused_up_front(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="the directory cannot be created"):
        RangeCache(tmp_path / "file" / "cache", 1_000)
    (tmp_path / "locks").mkdir()
    (tmp_path / "size").mkdir()
    with pytest.raises(StoreError, match="size: expected a file; found a directory"):
        RangeCache(tmp_path, 1_000)


def test_too_small_a_limit_says_what_is_needed(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 1_000)
    cache.check_holds(1_000, "a row group")
    with pytest.raises(InputError, match=r"expected 1,001 or more, for a row group; found 1,000"):
        cache.check_holds(1_001, "a row group")


def test_a_cache_that_is_deleted_while_it_is_used_is_made_anew(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path / "cache", 10_000)
    keep(cache, 0)
    shutil.rmtree(cache.directory)
    assert find(cache, 0) is None
    with cache.fetching(key_of(0)):
        shutil.rmtree(cache.directory)
        keep(cache, 0)
    assert find(cache, 0) is True
    assert held_bytes(cache) == 1_000


def test_files_of_others_are_not_touched(tmp_path: Path) -> None:
    """Neither those of a cache's own names, nor what a link of such a name leads to."""
    (tmp_path / "size").write_text("my measurements")
    with pytest.raises(StoreError, match=r"size: .*found another file"):
        RangeCache(tmp_path, 1_000)
    assert (tmp_path / "size").read_text() == "my measurements"

    secret = tmp_path / "secret"
    secret.write_text("secret")
    for name in ("size", "locks", f"locks/{int(key_of(0)[:8], 16) % 256:03d}"):
        directory = tmp_path / f"cache-{name.replace('/', '-')}"
        directory.mkdir()
        if "/" in name:
            (directory / "locks").mkdir()
        (directory / name).symlink_to(secret)
        with (
            pytest.raises(StoreError, match="found a symbolic link"),
            RangeCache(directory, 1_000).fetching(key_of(0)),
        ):
            pass
        assert secret.read_text() == "secret"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("size")])
def test_a_range_that_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    cache = RangeCache(tmp_path, 10_000)
    make(file_of(cache, 0))
    with pytest.raises(StoreError, match="expected a file; found a"):
        find(cache, 0)
