"""Stores are written to an object store, whatever becomes of the answers."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from softtargets import Store, verify
from softtargets.capture import build, commit
from softtargets.errors import InputError, SoftTargetsError, StoreError
from softtargets.places import Place, place_to_write, retries
from tests.capture.test_resume import StopError, stop_after
from tests.commands import run
from tests.fakes import FakeTeacher, build_config, build_store
from tests.object_store import KEY, SECRET, Bucket, Fault, Proxy, run_proxy, run_server
from tests.places.conformance import FILES, SHARD, Make, WritingTests, by_number, contents


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait hardly at all before another attempt."""
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)


class TestObjectStore(WritingTests):
    @pytest.fixture
    def make(self, object_url: str) -> Make:
        def make(files: Mapping[str, bytes]) -> Place:
            place = place_to_write(object_url)
            for path, content in files.items():
                place.put(path, content)
            return place

        return make

    @pytest.mark.parametrize("kind", ["error", "lost", "gone", "twice"])
    def test_what_was_written_once_is_known_to_be(
        self, place: Place, object_proxy: Proxy, kind: Any
    ) -> None:
        """An answer that is lost is no reason to think that somebody else wrote it."""
        tag = place.get_tagged(SHARD)
        assert tag is not None
        writes: dict[str, Callable[[], bool]] = {
            "new": lambda: place.put_if_absent("new", b"ours"),
            SHARD: lambda: place.put_if_match(SHARD, b"ours", tag[1]),
        }
        for path, write in writes.items():
            times = 1 if kind == "twice" else 2
            fault = object_proxy.inject(Fault(kind=kind, path=path, method="PUT", times=times))
            assert write()
            assert fault.num_done == times
            assert place.get(path) == b"ours"

    def test_what_others_wrote_meanwhile_is_theirs(self, place: Place, object_proxy: Proxy) -> None:
        tag = place.get_tagged(SHARD)
        assert tag is not None
        for path in ("new", SHARD):
            place.put(path, b"theirs")
            object_proxy.inject(Fault(kind="error", path=path, method="PUT"))
        assert not place.put_if_absent("new", b"ours")
        assert not place.put_if_match(SHARD, b"ours", tag[1])
        assert place.get("new") == place.get(SHARD) == b"theirs"

    def test_many_files_are_deleted_with_a_request(self, place: Place, object_proxy: Proxy) -> None:
        """Though it is done and told to be an error."""
        paths = [f"work/{number}" for number in range(20)]
        for path in paths:
            place.put(path, b"")
        fault = object_proxy.inject(Fault(kind="lost", method="POST"))
        del object_proxy.requests[:]
        place.delete_all(paths)
        assert [method for method, _, _ in object_proxy.requests] == ["POST", "POST"]
        assert fault.num_done == 1
        assert contents(place) == FILES

    @pytest.mark.slow
    def test_a_server_that_writes_whatever_the_condition_is_found_out(
        self, place: Place, tmp_path: Path
    ) -> None:
        assert place.has_conditional_puts()
        assert contents(place) == FILES
        # Once it is written to, rclone keeps a core busy as long as it runs.
        with run_server(tmp_path) as port, run_proxy(port) as proxy:
            other = place_to_write(Bucket(tmp_path, proxy).url())
            assert not other.has_conditional_puts()
            with pytest.raises(InputError, match="expected a place with locks"):
                other.check_locks()

    def test_a_server_that_knows_no_conditions_is_found_out(
        self, place: Place, object_proxy: Proxy
    ) -> None:
        object_proxy.inject(
            Fault(kind="error", path="probe", method="PUT", header="If-None-Match", status=501)
        )
        assert not place.has_conditional_puts()
        assert contents(place) == FILES

    def test_a_place_that_stays_away_is_an_error(self, place: Place, object_proxy: Proxy) -> None:
        object_proxy.inject(Fault(kind="error", path="new", method="PUT", times=100))
        with pytest.raises(StoreError, match=r"new: expected to be written; found after 8 "):
            place.put("new", b"")


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes | None]:
    """The files of the same store in a directory."""
    (tmp_path / "directory").mkdir()
    return contents(build_store(tmp_path / "directory").location)


@pytest.mark.slow
def test_a_build_that_stops_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, object_url: str, object_proxy: Proxy, expected: dict[str, bytes | None]
) -> None:
    config, place = build_config(tmp_path), place_to_write(object_url)
    for _ in range(2):
        with pytest.raises(StopError):
            build(config, FakeTeacher(), stop_after(3), place=place)
        object_proxy.inject(Fault(kind="lost", path="records", method="PUT", times=3))
    with pytest.raises(StoreError, match=r"all of \d+ units done"):
        commit(place)
    result = build(config, FakeTeacher(), place=place)
    assert not config.output.exists()
    assert by_number(contents(place)) == expected
    assert verify(result.store).is_sound
    assert verify(Store.open(object_url)).is_sound
    assert build(config, FakeTeacher(), place=place).was_complete


@pytest.mark.slow
def test_commands_write_stores_there(
    tmp_path: Path, tiny_teacher: Path, object_url: str, store: Store
) -> None:
    (tmp_path / "text.txt").write_text("One. " * 100)
    built, here = f"{object_url.replace('/store', '/built')}", tmp_path / "here"
    for output in (built, here):
        command = ("build", "--teacher", tiny_teacher, "--input", tmp_path / "text.txt")
        result = run(*command, "--output", output, "--dtype", "float32", "--top-k", "4")
        assert result.exit_code == 0, result.output
        assert KEY not in result.output
    assert by_number(contents(place_to_write(built))) == contents(place_to_write(here))
    plain = tmp_path / "plain"
    assert run("export", store.root, plain, "--to", "plain").exit_code == 0
    urls = {name: object_url.replace("/store", f"/{name}") for name in ("a", "b", "c", "d")}
    assert run("filter", store.root, "--output", urls["a"]).exit_code == 0
    assert run("import", plain, "--from", "plain", "--output", urls["b"]).exit_code == 0
    split = ("--train", urls["c"], "--validation", urls["d"], "--fraction", "0.5")
    assert run("split", store.root, *split).exit_code == 0
    there = {name: Store.open(url) for name, url in urls.items()}
    place = place_to_write(urls["a"])
    place.put("README.md", b"---\nlicense: mit\n---\nOurs.\n")
    result = run("card", urls["a"])
    assert result.exit_code == 0, result.output
    assert KEY not in result.output
    card = place.get("README.md") or b""
    assert b"license: mit" in card
    assert b"softtargets:begin description" in card
    assert run("clean", urls["a"]).output.endswith("0 files removed.\n")
    assert all(verify(one).is_sound for one in there.values())
    assert len(there["a"]) == len(there["b"]) == len(there["c"]) + len(there["d"]) == len(store)


def test_a_forked_process_is_told_to_open_it_anew(object_url: str) -> None:
    """Its client would wait for threads that are not there."""
    place = place_to_write(object_url)
    place.put("new", b"")
    process = multiprocessing.get_context("fork").Process(target=_expect_refusal, args=(place,))
    process.start()
    process.join()
    assert process.exitcode == 0


def _expect_refusal(place: Place) -> None:
    with pytest.raises(InputError, match="a process that was forked"):
        place.get("new")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("hf://datasets/org/name", "a directory, or a URL of one of s3://"),
        ("https://host/store", "a directory, or a URL of one of s3://"),
        ("s3://bucket/store?regoin=here", "options among region, .* found regoin"),
        ("gs://bucket/store?region=here", "no options in the URL; found region"),
        ("s3://", "a directory, or a URL of one of s3://"),
    ],
)
def test_other_urls_are_not_written_to(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        place_to_write(url)


@pytest.mark.slow
def test_credentials_are_in_no_message(object_url: str) -> None:
    place = place_to_write(object_url.replace("/some", "none-such/some"))
    texts = [str(place)]
    for name, arguments in (("put", ("new", b"")), ("check_writable", ())):
        with pytest.raises(SoftTargetsError) as caught:
            getattr(place, name)(*arguments)
        texts.append(str(caught.value))
    assert re.search("NoSuchBucket|404", texts[-1])
    assert not [text for text in texts if KEY in text or SECRET in text]
