from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from softtargets.capture import Corpus
from softtargets.errors import IdentityError, InputError, StoreError
from softtargets.store import (
    Store,
    export_plain,
    filter_store,
    merge_stores,
    split_store,
    verify,
)
from softtargets.store.writer import StoreWriter
from tests.commands import run
from tests.fakes import TEXTS, build_store, shard_bytes, write_corpus
from tests.golden import GOLDEN, write_store
from tests.store.test_codec import assert_same
from tests.windows import KINDS, make_window, of_own_documents


def ids(store: Store) -> list[str]:
    return [window.window_id for window in store]


def two_sources(directory: Path) -> Store:
    paths = (
        write_corpus(directory / "one.jsonl", TEXTS[:2]),
        write_corpus(directory / "two.jsonl", TEXTS[2:]),
    )
    return build_store(directory, corpus=Corpus(paths=paths))


@pytest.mark.slow
def test_a_merge_holds_every_window_once(tmp_path: Path) -> None:
    parts = []
    for name, texts in (("a", TEXTS[:3]), ("b", TEXTS[2:])):
        (tmp_path / name).mkdir()
        corpus = Corpus(paths=(write_corpus(tmp_path / name / "text.jsonl", texts),))
        parts.append(build_store(tmp_path / name, corpus=corpus))
    merged = merge_stores([part.root for part in parts], tmp_path / "merged")
    assert verify(merged.root).is_sound
    shared = set(ids(parts[0])) & set(ids(parts[1]))
    assert shared
    assert ids(merged) == ids(parts[0]) + [one for one in ids(parts[1]) if one not in shared]
    for window in merged:
        origin = parts[0] if window.window_id in parts[0] else parts[1]
        assert_same(window, origin[window.window_id])
    described = merged.manifest.identity["corpus"]["merged"]
    assert [part["fingerprint"] for part in described] == [part.fingerprint for part in parts]
    assert "text.jsonl, text.jsonl" in run("info", merged.root).output


@pytest.mark.slow
def test_a_merge_of_unlike_stores_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one = build_store(tmp_path / "a")
    other = build_store(tmp_path / "b", temperatures=(1.0, 3.0))
    with pytest.raises(IdentityError, match=r"b/store, field targets.temperatures\[1\]"):
        merge_stores([one.root, other.root], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    with pytest.raises(InputError, match="at least two stores"):
        merge_stores([one.root], tmp_path / "merged")


def documents(store: Store) -> set[tuple[str, str]]:
    return {(window.source, window.document_ids[0]) for window in store}


@pytest.mark.slow
def test_a_split_sends_every_document_to_one_part(store: Store, tmp_path: Path) -> None:
    assert len(documents(store)) < len(store)
    train, validation = split_store(
        store.root, tmp_path / "train", tmp_path / "validation", fraction=0.3, seed=3
    )
    assert not documents(train) & documents(validation)
    for part, view in zip((train, validation), store.split(0.3, seed=3), strict=True):
        assert verify(part.root).is_sound
        assert ids(part) == ids(view)
        for window in part:
            assert_same(window, store[window.window_id])
    assert sorted(ids(train) + ids(validation)) == sorted(ids(store))
    # A smaller fraction takes a part of the same documents, another seed takes others.
    _, larger = split_store(store.root, tmp_path / "t", tmp_path / "v", fraction=0.6, seed=3)
    assert set(ids(validation)) < set(ids(larger))
    _, other = split_store(store.root, tmp_path / "a", tmp_path / "b", fraction=0.6, seed=0)
    assert documents(other) != documents(larger)


def test_a_split_that_cannot_be_is_refused_before_anything_is_written(
    store: Store, tmp_path: Path
) -> None:
    for fraction in (0.0, 1.0, -1.0):
        with pytest.raises(InputError, match="between 0 and 1"):
            split_store(store.root, tmp_path / "x", tmp_path / "y", fraction=fraction)
    with pytest.raises(InputError, match="documents for both parts"):
        split_store(store.root, tmp_path / "x", tmp_path / "y", fraction=1e-9)
    assert not (tmp_path / "x").exists()


def test_a_split_says_how_it_was_chosen(store: Store, tmp_path: Path) -> None:
    """The part that went by the hash of each window had no seed; it is not continued."""
    for part in split_store(store.root, tmp_path / "train", tmp_path / "v", fraction=0.5):
        assert part.manifest.identity["derived"] == [
            {
                "operation": "split",
                "part": "train" if part.root.name == "train" else "validation",
                "fraction": 0.5,
                "seed": 0,
                "fingerprint": store.fingerprint,
            }
        ]


@pytest.mark.slow
def test_a_filter_keeps_sources_and_says_so(tmp_path: Path) -> None:
    store = two_sources(tmp_path)
    kept = filter_store(store.root, tmp_path / "kept", sources=["two.jsonl"])
    assert verify(kept.root).is_sound
    assert ids(kept) == [one.window_id for one in store if one.source == "two.jsonl"]
    assert kept.fingerprint != store.fingerprint
    assert kept.manifest.identity["derived"] == [
        {
            "operation": "filter",
            "sources": ["two.jsonl"],
            "trained_only": False,
            "fingerprint": store.fingerprint,
        }
    ]
    assert f"filter of {store.fingerprint[:12]}" in run("info", kept.root).output
    with pytest.raises(InputError, match="at least one window in the new store"):
        filter_store(store.root, tmp_path / "none", sources=["three.jsonl"])


def test_a_filter_by_mask_leaves_out_windows_without_targets(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    windows = [make_window(rng, trained=share)[0] for share in (1, 0, 0.5, 0, 1)]
    store = write_store(tmp_path / "store", KINDS["topk"], [windows])
    kept = filter_store(store.root, tmp_path / "kept", trained_only=True)
    assert ids(kept) == [window.window_id for window in windows if window.mask_T.any()]
    assert len(kept) < len(store)


def test_deriving_again_does_nothing(tmp_path: Path, store: Store) -> None:
    kept = filter_store(store.root, tmp_path / "kept", trained_only=True)
    before = shard_bytes(kept.root)
    filter_store(store.root, tmp_path / "kept", trained_only=True)
    assert shard_bytes(kept.root) == before
    with pytest.raises(IdentityError, match="field derived"):
        filter_store(store.root, tmp_path / "kept", sources=["corpus.jsonl"])


def test_an_interrupted_derivation_goes_on(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = filter_store(store.root, tmp_path / "whole", trained_only=True)
    real = StoreWriter.write_unit
    units: list[int] = []

    def write_unit(self: StoreWriter, unit: int, *rest: Any) -> Any:
        if len(units) == 2:
            raise KeyboardInterrupt
        units.append(unit)
        return real(self, unit, *rest)

    monkeypatch.setattr(StoreWriter, "write_unit", write_unit)
    with pytest.raises(KeyboardInterrupt):
        filter_store(store.root, tmp_path / "kept", trained_only=True)
    assert units == [0, 1]
    monkeypatch.setattr(StoreWriter, "write_unit", real)
    assert shard_bytes(filter_store(store.root, tmp_path / "kept", trained_only=True).root) == (
        shard_bytes(whole.root)
    )


def with_own_documents(store: Store, directory: Path) -> Store:
    """Return a store of the same windows, each of another document."""
    head = store.output_head() if store.targets.output_head else None
    return write_store(directory, store.targets, [of_own_documents(store)], head)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
def test_every_kind_is_merged_split_and_exported(name: str, tmp_path: Path) -> None:
    store = with_own_documents(Store.open(GOLDEN / name / "store"), tmp_path / "store")
    train, validation = split_store(
        store.root, tmp_path / "train", tmp_path / "validation", fraction=0.5
    )
    parts = {window.window_id: window for part in (train, validation) for window in part}
    assert len(parts) == len(store) > len(validation) > 0
    for window in store:
        assert_same(parts[window.window_id], window)
    assert verify(train.root).is_sound
    table = pq.read_table(export_plain(store.root, tmp_path / "plain"))
    rows = {row["window_id"]: row for row in table.to_pylist()}
    for window in store:
        row, targets = rows[window.window_id], window.targets
        for feature, values_RD in targets.features.items():
            assert row[f"feature_{feature}"] == values_RD.tolist()
        if targets.class_logits_TC is not None:
            assert row["class_logits"] == targets.class_logits_TC.tolist()
        if targets.logsumexp_TG is not None:
            assert row["logsumexp_t2"] == targets.logsumexp_TG[:, 1].tolist()
        if targets.samples is not None:
            own = targets.samples
            assert [len(one) for one in row["sample_ids"]] == own.num_samples_T.tolist()
            assert [one for position in row["sample_ids"] for one in position] == own.ids_S.tolist()
            assert [
                one for position in row["sample_counts"] for one in position
            ] == own.counts_S.tolist()
            if own.logits_S is not None:
                assert [
                    one for position in row["sample_logits"] for one in position
                ] == own.logits_S.tolist()
        if store.targets.head is not None:
            kept = zip(targets.ids_TK.tolist(), targets.num_entries_T.tolist(), strict=True)
            assert row["ids"] == [entries[:count] for entries, count in kept]
            assert ("logits" in row) == (not store.targets.temperatures)
            if "logits" in row:
                assert row["logits"][0][0] == targets.logits_TK[0, 0]
        if window.positions_T is not None:
            assert row["target_positions"] == window.positions_T.tolist()


def test_the_plain_layout_has_the_same_numbers(store: Store, tmp_path: Path) -> None:
    directory = export_plain(store.root, tmp_path / "plain")
    table = pq.read_table(directory)
    rows = table.to_pylist()
    assert [row["window_id"] for row in rows] == ids(store)
    for row, window in zip(rows, store, strict=True):
        targets = window.targets
        assert row["input_ids"] == window.input_ids_L.tolist()
        assert row["ids"] == targets.ids_TK.tolist()
        for temperature, name in ((1.0, "t1"), (2.0, "t2")):
            np.testing.assert_array_equal(
                np.array(row[f"logprobs_{name}"], np.float32), targets.logprobs_TK(temperature)
            )
            total = np.exp(row[f"logprobs_{name}"]).sum(axis=1) + row[f"tail_mass_{name}"]
            np.testing.assert_allclose(total, 1, atol=1e-5)
        assert targets.label_rank_T is not None
        assert row["label_rank"] == targets.label_rank_T.tolist()
    file = next(directory.glob("[!_]*.parquet"))
    metadata = json.loads(pq.read_schema(file).metadata[b"softtargets"])
    assert metadata["fingerprint"] == store.fingerprint
    with pytest.raises(StoreError, match="an empty directory, or nothing yet"):
        export_plain(store.root, directory)


@pytest.mark.slow
def test_the_commands(tmp_path: Path) -> None:
    store = two_sources(tmp_path)
    one, two, merged = (tmp_path / name for name in ("one", "two", "merged"))
    assert "windows" in run("filter", store.root, "--output", one, "--source", "one.jsonl").output
    split = run("split", store.root, "--train", two, "--validation", merged, "--fraction", "0.5")
    assert split.exit_code == 0
    assert run("export", store.root, tmp_path / "plain", "--to", "plain").exit_code == 0
    refused = run("merge", one, store.root, "--output", tmp_path / "refused")
    assert refused.exit_code == 1
    assert "field derived" in refused.stderr
