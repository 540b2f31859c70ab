"""A directory that is built in: only what a build made is removed, whatever else lies there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from softtargets.capture import BuildConfig, Corpus, TopK, build, build_range
from softtargets.capture.identity import describe_build
from softtargets.errors import (
    CorpusError,
    IdentityError,
    SoftTargetsError,
    StoreError,
    TeacherError,
)
from softtargets.places import Place
from softtargets.store import Store, filter_store, merge_stores, split_store, verify
from softtargets.store.request import read_request_of, request_text
from softtargets.store.work_files import REQUEST
from softtargets.store.writer import StoreWriter
from softtargets.tokenizer import Vocabulary
from tests.benchmarks.simulated_place import Clock, SimulatedPlace
from tests.capture.test_resume import StopError, stop_after_units
from tests.fakes import (
    TEXTS,
    ByteTokenizer,
    FakeTeacher,
    build_config,
    build_store,
    shard_bytes,
    write_corpus,
)
from tests.trees import snapshot

FOREIGN = (
    "shards/train-0.tar",
    "shards/unit-000000.parquet",
    "shards/sub/x",
    "work/thesis.tex",
    "work/records/unit-000000.json",
    "work/plan/unit-000000.parquet",
    "work/plan/units.parquet",
    "work/plan.json",
    "work/head.parquet",
    "work/lock",
    "work/.hidden",
    "notes.tmp",
    "README.md",
)


def put(directory: Path, path: str) -> None:
    (directory / path).parent.mkdir(parents=True, exist_ok=True)
    (directory / path).write_text("ten years of work")


def write(store: Path, output: Path, command: str) -> object:
    """Write to a directory in one of the ways that there are."""
    if command == "build":
        return build(build_config(output.parent, output=output), FakeTeacher())
    if command == "range":
        return build_range(build_config(output.parent, output=output), FakeTeacher(), 0, 1)
    if command == "merge":
        return merge_stores([store, store], output)
    if command == "split":
        return split_store(store, output, output.with_name("other"), fraction=0.5)
    return filter_store(store, output, trained_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("path", FOREIGN)
@pytest.mark.parametrize("command", ["build", "range", "filter", "split", "merge"])
def test_a_directory_without_a_mark_is_not_touched(
    store: Store, tmp_path: Path, command: str, path: str
) -> None:
    output = tmp_path / "output"
    put(output, path)
    before = snapshot(output)
    with pytest.raises(StoreError):
        write(store.root, output, command)
    found = snapshot(output)
    # The directory of a lock is made before the lock is found to be another's.
    assert {name: found[name] for name in before} == before
    assert set(found) - set(before) == set()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"identity": {}, "fingerprint": ""}'])
def test_a_request_that_no_build_wrote_is_no_mark(tmp_path: Path, content: str) -> None:
    output = tmp_path / "store"
    put(output, "shards/unit-000000.parquet")
    put(output, "work/request.json")
    (output / "work" / "request.json").write_text(content)
    before = snapshot(output)
    with pytest.raises(StoreError):
        build(build_config(tmp_path), FakeTeacher())
    assert snapshot(output) == before


def test_a_mark_whose_hash_is_wrong_is_none(tmp_path: Path) -> None:
    config = stopped(tmp_path)
    request = config.output / "work" / "request.json"
    data = json.loads(request.read_text())
    request.write_text(json.dumps({**data, "fingerprint": "0" * 64}))
    before = snapshot(config.output)
    with pytest.raises(StoreError, match="No build wrote this file, so nothing"):
        build(config, FakeTeacher())
    assert snapshot(config.output) == before


def stopped(tmp_path: Path, num_units: int = 2) -> BuildConfig:
    config = build_config(tmp_path)
    with pytest.raises(StopError):
        build(config, FakeTeacher(), stop_after_units(config, num_units))
    return config


STRANGE = ("notes.txt", "work/notes.txt", "work/records/mine.json", "work/plan/a/b", "shards/x.tar",
           "shards/unit-1.arrow",
           "work/unit-000000.parquet.tmp", "x.tmp", "work/deep/er/x.tmp")  # fmt: skip


def test_what_others_put_into_a_build_stays(tmp_path: Path, logged: list[str]) -> None:
    config = stopped(tmp_path)
    for path in STRANGE:
        put(config.output, path)
    build(config, FakeTeacher())
    for path in STRANGE:
        assert (config.output / path).read_text() == "ten years of work"
    assert any("'work/notes.txt'" in one for one in logged)
    assert not (config.output / "work" / "request.json").exists()
    assert not (config.output / "work" / "lock").exists()
    assert verify(config.output).is_sound
    # What is left does not keep anybody from finding the store complete.
    assert build(config, FakeTeacher()).was_complete
    assert (config.output / "work" / "notes.txt").exists()


def test_another_identity_takes_the_place_of_its_own_files_alone(tmp_path: Path) -> None:
    config = build_config(tmp_path, unit_tokens=10_000)
    with pytest.raises(StopError):
        build(config, FakeTeacher(), lambda _: (_ for _ in ()).throw(StopError))
    for path in ("shards/mine.parquet", "work/plan/mine.parquet", "work/mine"):
        put(config.output, path)
    other = dataclasses.replace(config, selection=TopK(k=5))
    build(other, FakeTeacher())
    for path in ("shards/mine.parquet", "work/plan/mine.parquet", "work/mine"):
        assert (config.output / path).read_text() == "ten years of work"


def test_a_directory_work_in_a_finished_store_is_not_ours(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    for path in ("work/thesis.tex", "work/lock", "work/plan.json"):
        put(store.root, path)
    before = snapshot(store.root)
    assert build(build_config(tmp_path), FakeTeacher()).was_complete
    assert snapshot(store.root) == before


def test_whoever_looks_while_another_begins_is_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, looked = SimulatedPlace(Clock(), 0.0), list[Place]()
    identity = describe_build(build_config(tmp_path), FakeTeacher())

    def read(own: Place) -> object:
        found = read_request_of(own)
        if not looked:
            own.put(REQUEST, request_text(identity))
        looked.append(own)
        return found

    monkeypatch.setattr("softtargets.store.workplace.read_request_of", read)
    with StoreWriter.hold(place, identity) as writer:
        assert not writer.is_complete
    assert len(looked) > 1


def test_a_readme_that_is_there_is_kept(tmp_path: Path, logged: list[str]) -> None:
    config = stopped(tmp_path)
    put(config.output, "README.md")
    build(config, FakeTeacher())
    assert (config.output / "README.md").read_text() == "ten years of work"
    assert any("README.md was there already, and is kept" in one for one in logged)


LINKED = ("work", "shards", "work/records", "work/plan", "work/request.json", "work/lock",
          "work/plan.json", "work/records/unit-000000.json", "work/vocabulary.parquet",
          "work/workers.lock", "README.md", "manifest.json", "vocabulary.parquet")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("path", LINKED)
def test_nothing_is_written_or_removed_through_a_link(tmp_path: Path, path: str) -> None:
    config = stopped(tmp_path, num_units=2)
    inside, outside = config.output / path, tmp_path / "outside"
    if inside.exists():
        inside.rename(outside)
    else:
        outside.write_text("private")
    inside.symlink_to(outside)
    before = snapshot(tmp_path)
    with pytest.raises(StoreError, match="found a symbolic link"):
        build(config, FakeTeacher())
    after = snapshot(tmp_path)
    names = {name for name in before if not name.startswith("store/")}
    assert {name: after[name] for name in names} == {name: before[name] for name in names}
    assert inside.is_symlink()


def test_a_link_to_the_directory_itself_is_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    store = build_store(tmp_path)
    assert verify(store.root).is_sound
    assert (tmp_path / "disk" / "manifest.json").is_file()


def test_a_build_that_an_earlier_release_left_goes_on(tmp_path: Path) -> None:
    """Those made the directories and locks before the request, and wrote no time into a lock."""
    (tmp_path / "whole").mkdir()
    expected = shard_bytes(build_store(tmp_path / "whole").root)
    for directory in ("work/records", "shards"):
        (tmp_path / "store" / directory).mkdir(parents=True)
    for lock in ("lock", "workers.lock"):
        (tmp_path / "store" / "work" / lock).write_text("process 1 on here\n")
    temporary = tmp_path / "store" / "work" / f"request.json.{0:032x}.tmp"
    temporary.write_bytes(b'{"form')
    assert shard_bytes(build_store(tmp_path).root) == expected
    assert not (tmp_path / "store" / "work").exists()


def test_the_mark_is_written_before_anything_else(tmp_path: Path) -> None:
    """Whatever a build has made at a moment, without the mark it is empty, or a lock."""
    config = build_config(tmp_path)
    seen = []

    def look(real: Callable[..., None]) -> Callable[..., None]:
        def write(self: object, path: str, content: bytes) -> None:
            seen.append(path)
            real(self, path, content)

        return write

    with pytest.MonkeyPatch.context() as patch:
        from softtargets.places.tree import Tree

        patch.setattr(Tree, "put", look(Tree.put))
        build(config, FakeTeacher())
    assert seen[0] == "work/request.json"


def test_the_identity_is_compared_before_anything_is_removed(tmp_path: Path) -> None:
    config = stopped(tmp_path)
    before = snapshot(config.output)
    other = describe_build(dataclasses.replace(config, selection=TopK(k=5)), FakeTeacher())
    with pytest.raises(IdentityError), StoreWriter.hold(config.output, other):
        pass
    assert snapshot(config.output) == before


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_path_that_cannot_be_is_an_error_of_ours(tmp_path: Path, store: Store, name: str) -> None:
    for output in (tmp_path / name, tmp_path / name / "deeper"):
        with pytest.raises(SoftTargetsError):
            filter_store(store.root, output, trained_only=True)


@pytest.mark.parametrize("had_directory", [False, True])
def test_a_build_that_fails_before_it_is_planned_leaves_nothing(
    tmp_path: Path, had_directory: bool
) -> None:
    corpus = Corpus(paths=(write_corpus(tmp_path / "bad.jsonl", [*TEXTS, "\ud800"]),))
    config = build_config(tmp_path, corpus=corpus)
    if had_directory:
        config.output.mkdir()
    with pytest.raises(CorpusError):
        build(config, FakeTeacher())
    assert config.output.exists() == had_directory
    if had_directory:
        assert not any(config.output.iterdir())


def test_a_build_that_fails_keeps_what_is_not_its_own(tmp_path: Path) -> None:
    config = build_config(tmp_path)

    class Refusing(ByteTokenizer):
        def vocabulary(self) -> Vocabulary:
            put(config.output, "work/notes")
            raise TeacherError("it", failed="cannot be read", found="no", next_step="Wait.")

    teacher = FakeTeacher()
    teacher.tokenizer = Refusing()
    with pytest.raises(TeacherError):
        build(config, teacher)
    assert (config.output / "work" / "notes").is_file()
    assert not (config.output / "shards").exists()


def test_a_build_that_fails_after_it_is_planned_goes_on(tmp_path: Path) -> None:
    config = build_config(tmp_path)

    class Unloadable(FakeTeacher):
        def load(self) -> None:
            raise TeacherError("it", failed="cannot be loaded", found="no", next_step="Wait.")

    with pytest.raises(TeacherError):
        build(config, Unloadable())
    assert (config.output / "work" / "plan.json").is_file()
    assert build(config, FakeTeacher()).store.root == config.output
