"""How far an engine was from transformers is not lost when stores are made from stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from softtargets.capture import Corpus
from softtargets.store import Store, filter_store, merge_stores, split_store, verify
from softtargets.store.drift import merged_drift
from tests.fakes import TEXTS, build_store, write_corpus

REFERENCE = {"architecture": "Fake", "dtype": "float32"}


def measured(**changes: Any) -> dict[str, Any]:
    drift: dict[str, Any] = {
        "reference": REFERENCE,
        "windows": 4,
        "positions": 40,
        "top1": 0.99,
        "logprobs": {"mean": 0.01, "largest": 0.2},
        "logits": {"mean": 0.02, "largest": 0.3},
    }
    return drift | changes


OTHER = measured(
    windows=5, positions=60, top1=0.97, logprobs={"mean": 0.02, "largest": 0.1},
    logsumexp={"mean": 0.0, "largest": 0.0},
)  # fmt: skip
WORST = measured(windows=9, positions=100, top1=0.97, logprobs={"mean": 0.02, "largest": 0.2})
"""Without logsumexp, of which one of the two says nothing."""
HALF = measured(reference=REFERENCE | {"dtype": "bfloat16"})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([measured()], measured()),
        ([{}], {}),
        ([measured(), measured()], measured()),
        ([measured(), OTHER], WORST),
        ([measured(), OTHER, measured()], WORST),
        ([measured(), {}], {}),
        ([{}, measured()], {}),
        ([{}, {}], {}),
        ([measured(), HALF], {}),
    ],
)
def test_what_holds_of_all(found: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    assert merged_drift(found) == expected


def store_with(directory: Path, texts: Any, drift: dict[str, Any]) -> Store:
    """Build a store, and say in its manifest what was measured."""
    directory.mkdir()
    corpus = Corpus(paths=(write_corpus(directory / "text.jsonl", texts),))
    path = build_store(directory, corpus=corpus).root / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | ({"drift": drift} if drift else {})))
    return Store.open(path.parent)


@pytest.mark.slow
def test_parts_of_a_store_have_it(tmp_path: Path) -> None:
    store = store_with(tmp_path / "a", TEXTS, measured())
    parts = split_store(store.root, tmp_path / "train", tmp_path / "held", fraction=0.4)
    chosen = filter_store(parts[0].root, tmp_path / "chosen", sources=["text.jsonl"])
    for derived in (*parts, chosen):
        assert derived.manifest.drift == measured()
        assert verify(derived.root).is_sound
    assert not (tmp_path / "chosen/work").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        (measured(), measured()),
        (measured(windows=1, positions=10, top1=0.5), measured(windows=5, positions=50, top1=0.5)),
        ({}, {}),
    ],
    ids=["alike", "worse", "none"],
)
def test_a_merge_has_what_holds_of_both(
    tmp_path: Path,
    theirs: dict[str, Any],
    expected: dict[str, Any],
    logged: list[str],
) -> None:
    stores = (
        store_with(tmp_path / "a", TEXTS[:3], measured()),
        store_with(tmp_path / "b", TEXTS[3:], theirs),
    )
    merged = merge_stores([store.root for store in stores], tmp_path / "merged")
    assert merged.manifest.drift == expected
    assert verify(merged.root).is_sound
    told = any("does not say how far its engine is" in one for one in logged)
    assert told == (not expected)
