from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from softtargets.capture.build import describe_build
from softtargets.store import Store, verify
from softtargets.store.verify import check_window
from softtargets.store.writer import StoreWriter
from softtargets.window import Window
from tests.fakes import FakeTeacher, build_config, make_window
from tests.store.test_codec import schema_of
from tests.store.test_store import edit_manifest


def test_a_sound_store_is_read_whole(store: Store) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(store.root, on_shard=lambda done, total: seen.append((done, total)))
    assert report.is_sound
    assert report.num_windows == len(store)
    assert report.num_positions == store.num_positions
    assert seen[-1] == (len(store.manifest.shards), len(store.manifest.shards))


def test_every_damaged_shard_is_reported(store: Store) -> None:
    paths = [store.root / shard.path for shard in store.manifest.shards]
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    paths[1].unlink()
    damaged = bytearray(paths[2].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    paths[2].write_bytes(damaged)
    report = verify(store.root)
    assert not report.is_sound
    for path in paths[:3]:
        assert any(str(path) in problem.where for problem in report.problems), path
    assert not any(str(paths[3]) in problem.where for problem in report.problems)


def test_the_cryptographic_checksum_is_checked(store: Store) -> None:
    edit_manifest(store, lambda m: m["shards"][1].update(sha256="0" * 64))
    [problem] = verify(store.root).problems
    assert problem.expected == f"SHA-256 {'0' * 64}"


def test_counts_of_the_manifest_are_checked(store: Store) -> None:
    edit_manifest(store, lambda m: m["shards"][0]["row_groups"][0].update(num_positions=5))
    expected = [problem.expected for problem in verify(store.root).problems]
    assert "5 positions" in expected


def test_a_shard_the_manifest_does_not_list_is_reported(store: Store) -> None:
    stray = store.root / "shards" / "unit-999999.parquet"
    stray.write_bytes(b"x")
    assert [problem.where for problem in verify(store.root).problems] == [str(stray)]


def test_a_window_that_is_stored_twice_is_reported(tmp_path: Path) -> None:
    config = build_config(tmp_path)
    windows = [make_window(np.random.default_rng(0))[0]] * 2
    with StoreWriter.hold(config.output, describe_build(config, FakeTeacher())) as writer:
        writer.write_unit(0, windows, {})
        writer.commit(1, "fake", {"windows": 2, "tokens": 12})
    [problem] = verify(config.output).problems
    assert problem.expected == "a window id that occurs once in the store"


def break_packed(name: str, at: tuple[int, ...], value: float) -> Callable[[Window], Window]:
    def damage(window: Window) -> Window:
        array = getattr(window.packed, name).copy()
        array[at] = value
        return dataclasses.replace(
            window, packed=dataclasses.replace(window.packed, **{name: array})
        )

    return damage


def drop_an_escape(window: Window) -> Window:
    escapes_E = window.packed.escapes_E
    assert len(escapes_E) > 0
    return dataclasses.replace(
        window, packed=dataclasses.replace(window.packed, escapes_E=escapes_E[1:])
    )


def break_ids(ids: list[int]) -> Callable[[Window], Window]:
    def damage(window: Window) -> Window:
        planes = tuple(plane.copy() for plane in window.packed.id_planes)
        for rank, token in enumerate(ids):
            planes[0][2, rank], planes[1][2, rank] = token % 256, token // 256
        return dataclasses.replace(
            window, packed=dataclasses.replace(window.packed, id_planes=planes)
        )

    return damage


@pytest.mark.parametrize(
    ("damage", "promise"),
    [
        (lambda window: dataclasses.replace(window, window_id="0" * 32), "hash of its content"),
        (lambda window: dataclasses.replace(window, document_ids=("a", "b")), "document id"),
        (break_packed("num_entries_T", (1,), 0), "at least one entry"),
        (break_packed("num_entries_T", (1,), 9), "at most 8 entries"),
        (drop_an_escape, "a value for every escape"),
        (break_ids([300, 1]), "ids within the vocabulary"),
        (break_ids([7, 7]), "without doubles"),
        (break_packed("top_logit_T", (1,), np.nan), "finite kept logits"),
        (break_packed("top_logit_T", (1,), np.inf), "finite kept logits"),
        (break_packed("tail_mass_TG", (1, 0), -0.1), "tail mass"),
        (break_packed("tail_mass_TG", (1, 1), 1.0), "tail mass"),
        (break_packed("tail_mass_TG", (1, 1), np.nan), "tail mass"),
        (break_packed("label_logit_T", (1,), np.nan), "label logit"),
        (break_packed("label_rank_T", (1,), 300), "label rank"),
        (break_packed("label_rank_T", (1,), -1), "label rank"),
    ],
)
def test_every_invariant_is_checked(
    rng: np.random.Generator, damage: Callable[[Window], Window], promise: str
) -> None:
    window, _ = make_window(rng, scale=6.0)
    assert list(check_window(window, schema_of(), "here")) == []
    problems = list(check_window(damage(window), schema_of(), "here"))
    assert len(problems) == 1
    assert promise in problems[0].expected


def test_lossless_logits_that_rise_are_reported(rng: np.random.Generator) -> None:
    window, _ = make_window(rng, step=None)
    broken = break_packed("logits_TK", (0, 3), 1000.0)(window)
    problems = list(check_window(broken, schema_of(values="float32"), "here"))
    assert [problem.expected for problem in problems] == ["logits that fall or stay along the rank"]
