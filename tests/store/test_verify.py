from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softtargets.capture.identity import describe_build
from softtargets.store import Store, verify
from softtargets.store.invariants import check_window
from softtargets.store.writer import StoreWriter
from softtargets.targets import Samples, pack
from softtargets.window import Window, content_hash
from tests.fakes import FakeTeacher, build_config, build_store
from tests.forgery import forge_manifest
from tests.golden import GOLDEN
from tests.store.test_store import edit_manifest
from tests.windows import KINDS, make_window


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


Damage = Callable[[Window], Window]


def change(window: Window, **cells: np.ndarray) -> Window:
    """Return a window with other cells."""
    packed = window.packed
    changed = dataclasses.replace(packed, cells={**packed.cells, **cells})
    return dataclasses.replace(window, packed=changed)


def put(column: str, at: tuple[int, ...] | int | slice, value: float) -> Damage:
    def damage(window: Window) -> Window:
        cell = window.packed.cells[column].copy()
        cell[at] = value
        return change(window, **{column: cell})

    return damage


def cut(column: str) -> Damage:
    def damage(window: Window) -> Window:
        cell = window.packed.cells[column]
        assert len(cell) > 0
        return change(window, **{column: cell[1:]})

    return damage


def put_ids(ids: list[int]) -> Damage:
    def damage(window: Window) -> Window:
        planes = {name: window.packed.cells[name].copy() for name in ("id_plane_0", "id_plane_1")}
        for rank, token in enumerate(ids):
            planes["id_plane_0"][2, rank] = token % 256
            planes["id_plane_1"][2, rank] = token // 256
        return change(window, **planes)

    return damage


def put_samples(samples: dict[int, int], position: int = 0) -> Damage:
    """Return damage that gives a position other draws, of as many as there were."""

    def damage(window: Window) -> Window:
        targets = window.targets
        assert targets.samples is not None
        assert window.packed.schema.samples is not None
        old, counts = targets.samples, targets.samples.num_samples_T
        start = int(counts[:position].sum())
        stop = start + int(counts[position])
        ids, drawn = np.array(list(samples)), np.array(list(samples.values()))
        assert drawn.sum() == window.packed.schema.samples.num_draws
        num_samples_T = counts.copy()
        num_samples_T[position] = len(ids)
        changed = Samples(
            num_samples_T=num_samples_T,
            ids_S=np.r_[old.ids_S[:start], ids, old.ids_S[stop:]].astype(np.int32),
            counts_S=np.r_[old.counts_S[:start], drawn, old.counts_S[stop:]].astype(np.int32),
            logits_S=None
            if old.logits_S is None
            else np.r_[
                old.logits_S[:start], np.zeros(len(ids), np.float32), old.logits_S[stop:]
            ].astype(np.float32),
        )
        packed = pack(dataclasses.replace(targets, samples=changed), window.packed.schema)
        return dataclasses.replace(window, packed=packed)

    return damage


def put_token(**arrays: Any) -> Damage:
    """Return damage to a token array that keeps the window's id right."""

    def damage(window: Window) -> Window:
        changed = dataclasses.replace(window, **arrays)
        return dataclasses.replace(changed, window_id=content_hash(changed))

    return damage


def first_of_the_head(window: Window) -> Window:
    token = int(window.targets.ids_TK[0, 0])
    return put_samples({token: 8, (token + 1) % 300: 8})(window)


INT = np.int32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "damage", "promise"),
    [
        ("topk", lambda window: dataclasses.replace(window, window_id="0" * 32), "hash of its"),
        ("topk", put_token(document_ids=("a",)), "document id"),
        (
            "topk",
            put_token(segment_lengths_S=np.array([1, 4], INT)),
            "lengths that sum to the 6 tokens",
        ),
        ("topk", put_token(input_ids_L=np.array([1, 2, 3, 4, 5, 300], INT)), "ids from 0 to 299"),
        ("topk", put("num_entries", (1,), 0), "from 1 to 8 entries"),
        ("topk", put("num_entries", (1,), 9), "from 1 to 8 entries"),
        ("topk", cut("escapes"), "a difference for each of"),
        ("topk", put_ids([300, 1]), "ids below 300"),
        ("topk", put_ids([7, 7]), "without doubles"),
        ("topk", put("top_logit", (1,), np.nan), "finite numbers"),
        ("topk", put("top_logit", (1,), np.inf), "finite numbers"),
        ("topk", put("tail_mass_t1", (1,), -0.1), "a mass from 0 to below 1"),
        ("topk", put("tail_mass_t2", (1,), 1.0), "a mass from 0 to below 1"),
        ("topk", put("tail_mass_t2", (1,), np.nan), "a mass from 0 to below 1"),
        ("topk", put("label_logit", (1,), np.nan), "numbers below infinity"),
        ("topk", put("label_rank", (1,), 300), "ranks from 0 to 299"),
        ("topk", put("label_rank", (1,), -1), "ranks from 0 to 299"),
        ("topk-lossless", put("logits", (0, 3), 1000.0), "fall or stay along the rank"),
        ("sampled", put("logsumexp_t1", (1,), np.nan), "finite numbers"),
        ("sampled", cut("sample_gaps"), "a gap and a logit for every id"),
        ("sampled-with-logits", cut("sample_steps"), "a gap and a logit for every id"),
        ("hybrid", cut("sample_logits"), "a gap and a logit for every id"),
        ("sampled", cut("repeated_counts"), "counts that sum to the number of draws"),
        ("sampled", put("num_repeated", (0,), -1), "from 0 to 32 ids"),
        ("sampled", put("repeated_counts", (0,), 1000), "counts from 2 to 32"),
        ("sampled", put_samples({299: 15, 300: 17}), "ids from 0 to 299"),
        ("sampled", put_samples({7: 31, 8: 1}), None),
        ("hybrid", first_of_the_head, "samples outside the head"),
        ("hybrid", put("sample_logits", (0,), np.inf), "finite numbers"),
        (
            "classes-of-windows",
            put("class_logits", 1, np.nan),
            "numbers below infinity",
        ),
        (
            "classes-of-windows",
            put("class_logits", 1, np.inf),
            "numbers below infinity",
        ),
        ("classes-of-windows", put("class_logits", slice(None), -np.inf), "above -inf"),
        ("classes-of-windows", put_token(label_ids_T=np.array([5], INT)), "labels from 0 to 4"),
        ("masked-tokens", put_token(positions_T=np.array([3, 2], INT)), "places that rise within"),
        ("masked-tokens", put_token(positions_T=np.array([2, 2], INT)), "places that rise within"),
        ("masked-tokens", put_token(positions_T=np.array([2, 6], INT)), "rise within the window"),
        ("masked-tokens", put_token(positions_T=np.array([2, 5], INT)), None),
        (
            "assistant-tokens",
            put_token(positions_T=np.array([2, 5], INT)),
            "rise within the window",
        ),
        ("masked-tokens", put_token(label_ids_T=np.array([1, 300], INT)), "labels from 0 to 299"),
        ("translation", put_token(encoder_ids_M=np.array([-1], INT)), "ids from 0 to 299"),
        ("features", put("feature_pooled_scale", (0,), np.nan), "a finite scale"),
    ],
)
def test_every_invariant_is_checked(
    rng: np.random.Generator, kind: str, damage: Damage, promise: str | None
) -> None:
    window = make_window(rng, KINDS[kind], scale=6.0)[0]
    while window.positions_T is not None and len(window.positions_T) != 2:
        window = make_window(rng, KINDS[kind], scale=6.0)[0]
    assert list(check_window(window, "here")) == []
    problems = list(check_window(damage(window), "here"))
    assert [promise in problem.expected for problem in problems if promise] == [True] * bool(
        promise
    )
    assert len(problems) == bool(promise)


def test_samples_that_stand_twice_are_reported(rng: np.random.Generator) -> None:
    """An id among the repeated ones may not stand among the single ones of its position too."""
    window = put_samples({7: 31, 8: 1})(make_window(rng, KINDS["sampled"])[0])
    for name, gap, promise in (
        ("single as repeated", 7, "sampled ids without doubles"),
        ("gap below zero", -1, "gaps from 0 to 299"),
    ):
        problems = list(check_window(put("sample_gaps", (1,), gap)(window), "here"))
        assert promise in [problem.expected for problem in problems], name
    cells = window.packed.cells
    swapped = change(
        window,
        num_repeated=cells["num_repeated"] + np.eye(1, 5, dtype=INT)[0],
        repeated_counts=np.r_[INT(31), INT(1), cells["repeated_counts"][1:]],
    )
    assert [problem.expected for problem in check_window(swapped, "here")] == [
        "counts from 2 to 32"
    ]


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", ["vocabulary", "head"])
def test_a_file_that_the_manifest_lost_is_reported(tmp_path: Path, name: str, fast: bool) -> None:
    root = tmp_path / "store"
    shutil.copytree(GOLDEN / "topk-in-lists-1.3" / "store", root)
    if name == "vocabulary":
        forge_manifest(root, lambda manifest: manifest.pop("vocabulary"))
    else:
        shutil.copy(root / "vocabulary.parquet", root / "head.parquet")
    [problem] = verify(root, fast=fast).problems
    assert problem.where == f"{root}/{name}.parquet"
    assert problem.found == "the file alone"


def test_all_row_groups_are_checked_beside_a_damaged_one(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    for shard in (0, 1):
        entry = store.manifest.shards[shard]
        path = store.root / entry.path
        content = bytearray(path.read_bytes())
        content[entry.row_groups[0].offset + 9] ^= 1
        path.write_bytes(content)
    assert len(verify(store.root).problems) == 2
