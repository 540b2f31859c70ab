"""From a store to a layout and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from softtargets.capture import Corpus, Hybrid, Windowing
from softtargets.layouts.axolotl import Axolotl
from softtargets.layouts.distillkit import DistillKit
from softtargets.layouts.distillkit_compression import Compression
from softtargets.layouts.token_logits import TokenLogits
from softtargets.store import (
    Store,
    export_axolotl,
    export_distillkit,
    export_plain,
    import_lists,
    import_plain,
    verify,
)
from tests.benchmarks.formats import TRIPS, measure
from tests.fakes import TEXTS, build_store, write_corpus
from tests.golden import arrays_of, make_store, write_store
from tests.layouts.readers import FULL, LOGITS, write_rows
from tests.windows import KINDS, make_window


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"topk-of-262144"}))
def test_plain_brings_every_kind_back(kind: str, tmp_path: Path) -> None:
    """All arrays are the same; of lossless values within float32's rounding."""
    store = make_store(tmp_path / "store", kind)
    back = import_plain([export_plain(store.root, tmp_path / "plain")], tmp_path / "back")
    assert verify(back.root).is_sound
    expected, found = arrays_of(store), arrays_of(back)
    assert set(expected) == set(found)
    for name, array in expected.items():
        if name == "logits" and kind == "topk-lossless":
            np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-5)
        elif name.startswith("feature_"):
            np.testing.assert_allclose(found[name], array, rtol=1e-6)
        else:
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    identity = dict(back.manifest.identity)
    [step] = identity.pop("derived")
    assert identity == store.manifest.identity
    assert (step["operation"], step["fingerprint"]) == ("import", store.fingerprint)
    assert [file["name"] for file in step["files"]] == [
        "part-000000.parquet",
        "part-000001.parquet",
    ]
    assert (back.manifest.teacher, back.manifest.corpus) == ("invented", store.manifest.corpus)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TRIPS))
@pytest.mark.parametrize("kind", ["topk", "float32", "packed", "chat", "hybrid"])
def test_a_trip_costs_what_it_is_said_to_cost(kind: str, name: str, tmp_path: Path) -> None:
    corpus = Corpus(paths=(write_corpus(tmp_path / "two.jsonl", TEXTS[:2]),))
    changes: dict[str, dict[str, Any]] = {
        "topk": {},
        "float32": {"values": "float32"},
        "packed": {"windowing": Windowing(sequence_length=200, kind="pack")},
        "hybrid": {"selection": Hybrid(k=8)},
    }
    if kind == "chat":
        store = make_store(tmp_path / "store", "assistant-tokens")
    else:
        store = build_store(tmp_path, corpus=corpus, **changes[kind])
    trip = measure(store, name, tmp_path)
    assert (trip.num_changed, trip.num_top) == (0, 0)
    is_half = name == "DistillKit, float16"
    # Of lossless values the imported store keeps steps: within half a step of each other, and
    # what all sum to moves by as much at most.
    steps = 1 / 16 if kind == "float32" and name != "plain" else 0
    assert trip.largest <= steps + (2e-2 if is_half else 4e-6)
    assert (trip.largest_tail is None) == (name == "axolotl, renormalised")
    if trip.largest_tail is not None:
        assert trip.largest_tail <= (4e-3 if is_half else 1e-6)


def test_the_card_says_what_is_known(store: Store, tmp_path: Path) -> None:
    exported = export_axolotl(store.root, tmp_path / "lists", values="full")
    back = import_lists([exported], tmp_path / "back", Axolotl(), FULL)
    card = (back.root / "README.md").read_text()
    assert "- **Imported**: from `axolotl`, `full` log-probabilities at temperature 1;" in card
    assert "what the imported ones leave of 1, within" in card
    assert "as the teacher gave them" not in card
    assert "before anything was rounded" not in card


@pytest.mark.slow
def test_windows_of_one_document_keep_their_ids(store: Store, tmp_path: Path) -> None:
    for written, layout in (
        (export_axolotl(store.root, tmp_path / "a", values="full"), Axolotl()),
        (
            export_distillkit(store.root, tmp_path / "d"),
            DistillKit(compression=Compression(d=300, k=8, exact_k=8)),
        ),
    ):
        back = import_lists([written], tmp_path / f"{layout.name}-back", layout, FULL)
        assert [one.window_id for one in back] == [one.window_id for one in store]


def test_an_imported_window_is_what_a_store_of_it_would_be(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    """Half precision, in another order of the files, and a masked target that has entries."""
    windows = [make_window(rng, KINDS["topk-without-tail"], trained=0.5)[0] for _ in range(3)]
    store = write_store(tmp_path / "store", KINDS["topk-without-tail"], [windows])
    columns: dict[str, list[Any]] = {name: [] for name in ("input_ids", "labels", "token_ids")}
    values = []
    for window in windows:
        targets = window.targets
        labels = [-100, *np.where(window.mask_T, window.input_ids_L[1:], -100).tolist()]
        columns["input_ids"].append(window.input_ids_L.tolist())
        columns["labels"].append(labels)
        columns["token_ids"].append(targets.ids_TK.tolist())
        values.append(targets.logits_TK.astype(np.float16).tolist())
    kind = pa.list_(pa.list_(pa.float16()))
    halves = pa.array([[[np.float16(one) for one in own] for own in row] for row in values], kind)
    path = write_rows(tmp_path / "rows.parquet", columns | {"top_values": halves})
    back = import_lists([path], tmp_path / "back", TokenLogits(), LOGITS)
    for one, other in zip(store, back, strict=True):
        assert np.array_equal(one.input_ids_L, other.input_ids_L)
        assert np.array_equal(one.mask_T, other.mask_T)
        assert np.array_equal(one.targets.ids_TK, other.targets.ids_TK)
        np.testing.assert_allclose(one.targets.logits_TK, other.targets.logits_TK, atol=1 / 16)
