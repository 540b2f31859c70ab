"""What an interruption costs: nothing that was done, and not a byte of what comes after."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from softtargets.capture import BuildConfig, TopK, build
from softtargets.capture.identity import describe_build
from softtargets.errors import BusyError, StoreError
from softtargets.kinds import HeadSchema
from softtargets.places.tree import Tree
from softtargets.store import Store, verify
from softtargets.store.writer import StoreWriter
from tests.fakes import FakeTeacher, build_config, build_store, shard_bytes
from tests.processes import CONTEXT, Gate, held


class StopError(Exception):
    """Stands for whatever ends a build."""


def stop_after(num_calls: int) -> Callable[..., None]:
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls > num_calls:
            raise StopError

    return count


def stop_after_units(config: BuildConfig, num_units: int) -> Callable[..., None]:
    def count(*_: object) -> None:
        if len(list((config.output / "work" / "records").glob("*.json"))) >= num_units:
            raise StopError

    return count


@pytest.mark.slow
def test_an_exception_anywhere_loses_no_unit_that_was_done(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    expected = shard_bytes(build_store(tmp_path / "whole").root)
    for num_calls in range(0, 60, 3):
        directory = tmp_path / f"stopped-{num_calls}"
        directory.mkdir()
        config = build_config(directory)
        done: set[int] = set()
        try:
            build(config, FakeTeacher(), stop_after(num_calls))
        except StopError:
            records = config.output / "work" / "records"
            done = {int(path.stem.removeprefix("unit-")) for path in records.glob("*.json")}
        result = build(config, FakeTeacher())
        assert result.num_units_before in (len(done), result.num_units)
        assert shard_bytes(config.output) == expected, num_calls


def build_until_write(config: BuildConfig, interrupt: Callable[..., None]) -> None:
    """Build, calling `interrupt` before every rename and before every sync of a directory."""

    def sync(self: Tree, directory: str, real: Any = Tree.sync) -> None:
        interrupt()
        real(self, directory)

    def replace(*names: str, real: Any = os.replace, **directories: int) -> None:
        interrupt()
        real(*names, **directories)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tree, "sync", sync)
        patch.setattr(os, "replace", replace)
        build(config, FakeTeacher())


def check_old_state_or_new(config: BuildConfig) -> None:
    """Check that an interrupted store is unfinished or whole, and that building again ends it."""
    if not (config.output / "manifest.json").is_file():
        with pytest.raises(StoreError, match="unfinished build"):
            Store.open(config.output)
    build(config, FakeTeacher())
    assert verify(config.output).is_sound
    assert sorted(path.name for path in config.output.rglob("*") if path.is_file()) == sorted(
        ["README.md", "manifest.json", "vocabulary.parquet", *shard_bytes(config.output)]
    )


def num_writes(config: BuildConfig) -> int:
    """Return how many writes a build takes, in two steps each.

    They are the request, the plan and its units, the vocabulary beside it and in the store, the
    card and the manifest; and of a unit its windows, its shard and its record.
    """
    return 2 * (7 + 3 * len(Store.open(config.output).manifest.shards))


@pytest.mark.slow
def test_an_exception_at_any_write_shows_the_old_state_or_the_new(tmp_path: Path) -> None:
    crashes = 0
    while True:
        (tmp_path / str(crashes)).mkdir()
        config = build_config(tmp_path / str(crashes), unit_tokens=200)
        try:
            build_until_write(config, stop_after(crashes))
            break
        except StopError:
            check_old_state_or_new(config)
            crashes += 1
    assert crashes == num_writes(config)


def _build_until_killed(config: BuildConfig, num_calls: int) -> None:
    stop = stop_after(num_calls)

    def kill() -> None:
        try:
            stop()
        except StopError:
            os.kill(os.getpid(), signal.SIGKILL)

    build_until_write(config, kill)


@pytest.mark.slow
def test_sigkill_at_any_write_shows_the_old_state_or_the_new(tmp_path: Path) -> None:
    kills = 0
    while True:
        (tmp_path / str(kills)).mkdir()
        config = build_config(tmp_path / str(kills), unit_tokens=200)
        process = CONTEXT.Process(target=_build_until_killed, args=(config, kills))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        check_old_state_or_new(config)
        kills += 1
    assert kills == num_writes(config)


@pytest.mark.slow
@pytest.mark.parametrize("num_calls", [0, 3])
def test_a_build_without_a_finished_unit_may_begin_anew_otherwise(
    tmp_path: Path, num_calls: int
) -> None:
    config = build_config(tmp_path, unit_tokens=10_000)
    with pytest.raises(StopError):
        build(config, FakeTeacher(), stop_after(num_calls))
    (config.output / "shards" / "unit-000007.parquet").write_bytes(b"of a unit without a record")
    other = dataclasses.replace(config, selection=TopK(k=5))
    build(other, FakeTeacher())
    assert verify(config.output).is_sound
    assert Store.open(config.output).targets.head == HeadSchema(max_entries=5)


def _build_within(config: BuildConfig, most_bytes: int) -> None:
    # The kernel refuses writes past the limit, as a full disk refuses them.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    build(config, FakeTeacher())


@pytest.mark.slow
def test_a_write_the_system_refuses_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = build_store(tmp_path / "whole")
    sizes = [shard.num_bytes for shard in whole.manifest.shards]
    limit = max(sizes) - 1
    config = build_config(tmp_path)
    with ProcessPoolExecutor(1, CONTEXT) as process:
        error = process.submit(_build_within, config, limit).exception()
    assert isinstance(error, StoreError)
    assert f"unit-{sizes.index(max(sizes)):06d}.parquet: " in str(error)
    assert "bytes cannot be written: " in str(error)
    assert "File too large" in str(error)
    assert not list(config.output.rglob("*.tmp"))
    done = shard_bytes(config.output)
    assert len(done) == next(index for index, size in enumerate(sizes) if size > limit)
    result = build(config, FakeTeacher())
    assert result.num_units_before == len(done)
    assert shard_bytes(config.output) == shard_bytes(whole.root)


def _hold(config: BuildConfig, gate: Gate) -> None:
    build(config, FakeTeacher(), lambda _: gate())


@pytest.mark.slow
def test_a_second_build_is_told_who_holds_the_store(tmp_path: Path) -> None:
    config = build_config(tmp_path)
    with (
        held(_hold, config) as process,
        pytest.raises(BusyError, match=rf"found one by process {process.pid} on "),
    ):
        build(config, FakeTeacher())
    assert verify(config.output).is_sound


@pytest.mark.slow
def test_units_do_not_depend_on_the_order_they_were_done_in(tmp_path: Path) -> None:
    config = build_config(tmp_path)
    (tmp_path / "whole").mkdir()
    expected = shard_bytes(build_store(tmp_path / "whole").root)
    with pytest.raises(StopError):
        build(config, FakeTeacher(), stop_after_units(config, 2))
    records = sorted((config.output / "work" / "records").iterdir())
    assert len(records) > 1
    # The first unit is lost: a hole, not a lower "last shard number".
    records[0].unlink()
    (config.output / "shards" / f"{records[0].stem}.parquet").unlink()
    build(config, FakeTeacher())
    assert shard_bytes(config.output) == expected


@pytest.mark.slow
def test_a_record_whose_shard_is_gone_or_cut_does_not_count(tmp_path: Path) -> None:
    config = build_config(tmp_path)
    (tmp_path / "whole").mkdir()
    expected = shard_bytes(build_store(tmp_path / "whole").root)
    with pytest.raises(StopError):
        build(config, FakeTeacher(), stop_after_units(config, 2))
    shards = sorted((config.output / "shards").iterdir())
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    result = build(config, FakeTeacher())
    assert result.num_units_before == len(shards) - 2
    assert shard_bytes(config.output) == expected


def test_nothing_is_committed_while_a_unit_is_missing(tmp_path: Path) -> None:
    config = build_config(tmp_path)
    with StoreWriter.hold(config.output, describe_build(config, FakeTeacher())) as writer:
        with pytest.raises(StoreError, match="all of 2 units done; found 2 missing"):
            writer.commit(2, "fake", {})
        assert not writer.is_complete
