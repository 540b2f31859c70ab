"""A place that the package does not know: a store is built there, checked, streamed and learned."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
import torch

from softtargets import Store, collate, distillation_loss, verify
from softtargets.capture import TopK, build, build_range, commit
from softtargets.errors import IdentityError, InputError, StoreError
from softtargets.places import Place
from softtargets.store import filter_store
from softtargets.stream import SoftTargetDataset
from tests.capture.test_resume import StopError, stop_after
from tests.fakes import FakeTeacher, build_config, build_store
from tests.places.conformance import Make, WritingTests, by_number, contents


class InMemory(Place):
    """A dictionary."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self._lock = Lock()

    def __str__(self) -> str:
        return "memory"

    def __getstate__(self) -> dict[str, bytes]:
        return self.files

    def __setstate__(self, files: dict[str, bytes]) -> None:
        self.files, self._lock = files, Lock()

    def size(self, path: str) -> int | None:
        return len(self.files[path]) if path in self.files else None

    def get(self, path: str, sha256: str | None = None) -> bytes | None:
        return self.files.get(path)

    def list(self, directory: str) -> list[str]:
        start = f"{directory}/".lstrip("/")
        below = [path.removeprefix(start) for path in self.files if path.startswith(start)]
        return sorted({f"{start}{''.join(path.partition('/')[:2])}" for path in below})

    def check_writable(self) -> None:
        pass

    def put(self, path: str, content: bytes) -> None:
        self.files[path] = content

    def put_if_absent(self, path: str, content: bytes) -> bool:
        with self._lock:
            is_new = path not in self.files
            self.files.setdefault(path, content)
            return is_new

    def get_tagged(self, path: str) -> tuple[bytes, str] | None:
        content = self.files.get(path)
        return None if content is None else (content, hashlib.sha256(content).hexdigest())

    def put_if_match(self, path: str, content: bytes, tag: str) -> bool:
        with self._lock:
            found = self.get_tagged(path)
            is_same = found is not None and found[1] == tag
            if is_same:
                self.files[path] = content
            return is_same

    def delete(self, path: str) -> None:
        self.files.pop(path, None)


class TestInMemory(WritingTests):
    @pytest.fixture
    def make(self) -> Make:
        def make(files: Mapping[str, bytes]) -> Place:
            place = InMemory()
            place.files.update(files)
            return place

        return make


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    """The files of the same store in a directory."""
    (tmp_path / "directory").mkdir()
    found = contents(build_store(tmp_path / "directory").location)
    return {path: content for path, content in found.items() if content is not None}


def loss_of(store: Store) -> torch.Tensor:
    dataset = SoftTargetDataset(store, shuffle=True, seed=3, batch_size=4)
    rng = torch.Generator().manual_seed(0)
    losses = []
    for batch in dataset:
        assert not isinstance(batch, list)
        logits = torch.randn((*batch["input_ids"].shape, 300), generator=rng)
        losses.append(distillation_loss(logits, batch, temperature=2.0))
    return torch.stack(losses)


@pytest.mark.slow
def test_a_store_is_built_checked_streamed_and_learned(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    place, config = InMemory(), build_config(tmp_path)
    result = build(config, FakeTeacher(), place=place)
    assert not config.output.exists()
    assert by_number(place.files) == expected
    assert result.store.location is place
    assert verify(Store.open(place)).is_sound
    assert verify(Store.open(place), fast=True).is_sound
    assert build(config, FakeTeacher(), place=place).was_complete
    there, here = Store.open(place), Store.open(tmp_path / "directory" / "store")
    assert [one.window_id for one in there] == [one.window_id for one in here]
    assert torch.equal(loss_of(there), loss_of(here))
    assert collate(list(there)[:2])["input_ids"].shape[0] == 2


@pytest.mark.slow
def test_a_build_that_stopped_goes_on(tmp_path: Path, expected: dict[str, bytes]) -> None:
    for num_calls in range(0, 60, 7):
        place, config = InMemory(), build_config(tmp_path)
        try:
            build(config, FakeTeacher(), stop_after(num_calls), place=place)
        except StopError:
            with pytest.raises(StoreError, match="memory: expected a store"):
                Store.open(place)
        build(config, FakeTeacher(), place=place)
        assert by_number(place.files) == expected, num_calls


@pytest.mark.slow
def test_units_that_are_done_are_committed(tmp_path: Path, expected: dict[str, bytes]) -> None:
    place, config = InMemory(), build_config(tmp_path)
    with pytest.raises(StoreError, match="memory: expected a store, or a directory in which"):
        commit(place)
    with pytest.raises(StopError):
        build(config, FakeTeacher(), stop_after(0), place=place)
    with pytest.raises(StoreError, match=r"memory: expected all of \d+ units done"):
        commit(place)

    def stop_at_end(_: Any) -> None:
        if len(place.list("work/records")) == num_shards:
            raise StopError

    num_shards = sum(path.startswith("shards/") for path in expected)
    with pytest.raises(StopError):
        build(config, FakeTeacher(), stop_at_end, place=place)
    assert len(commit(place)) == len(Store.open(tmp_path / "directory" / "store"))
    assert by_number(place.files) == expected


def test_what_others_put_there_is_not_touched(tmp_path: Path) -> None:
    place, config = InMemory(), build_config(tmp_path)
    place.put("notes", b"ten years of work")
    with pytest.raises(StoreError, match="memory: expected an empty directory, or a store"):
        build(config, FakeTeacher(), place=place)
    assert place.files == {"notes": b"ten years of work"}
    place.delete("notes")
    build(config, FakeTeacher(), place=place)
    before = dict(place.files)
    with pytest.raises(IdentityError):
        build(dataclasses.replace(config, selection=TopK(k=5)), FakeTeacher(), place=place)
    assert place.files == before


def test_a_place_without_locks_is_built_in_by_one_process(tmp_path: Path) -> None:
    place, config = InMemory(), build_config(tmp_path)
    with pytest.raises(InputError, match="memory: expected a place with locks"):
        build_range(config, FakeTeacher(), 0, 1, place=place)
    with pytest.raises(InputError, match="memory: expected a place with locks"):
        build(dataclasses.replace(config, workers=2), FakeTeacher(), place=place)
    assert verify(build(config, FakeTeacher(), place=place).store).is_sound


def test_stores_are_derived_there(tmp_path: Path) -> None:
    place, derived = InMemory(), InMemory()
    store = build(build_config(tmp_path), FakeTeacher(), place=place).store
    assert len(filter_store(place, derived, trained_only=True)) == len(store)
    assert verify(Store.open(derived)).is_sound
