"""How far rounded features are off is not lost when stores are made from stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from softtargets.capture import Corpus
from softtargets.store import Store, filter_store, merge_stores, split_store, verify
from softtargets.store.rounding import merged_rounding
from tests.fakes import TEXTS, build_store, write_corpus


def of(relative: float, largest: float) -> dict[str, float]:
    return {"relative": relative, "largest": largest}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([{"a": of(0.1, 2)}], {"a": of(0.1, 2)}),
        ([{"a": of(0.1, 2)}, {"a": of(0.2, 1)}], {"a": of(0.2, 2)}),
        ([{"a": of(0.1, 2), "b": of(0, 0)}, {"a": of(0.1, 3)}], {"a": of(0.1, 3)}),
        ([{"a": of(0.1, 2)}, {}], {}),
        ([{}, {}], {}),
    ],
)
def test_the_worst_holds_of_all(found: list[Any], expected: dict[str, Any]) -> None:
    assert merged_rounding(found) == expected


def store_with(directory: Path, texts: Any, rounding: dict[str, Any]) -> Store:
    """Build a store, and say in its manifest what was measured."""
    directory.mkdir()
    corpus = Corpus(paths=(write_corpus(directory / "text.jsonl", texts),))
    path = build_store(directory, corpus=corpus).root / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rounding": rounding}))
    return Store.open(path.parent)


@pytest.mark.slow
def test_derived_stores_have_it(tmp_path: Path) -> None:
    store = store_with(tmp_path / "a", TEXTS[:3], {"layer_0": of(0.1, 2)})
    parts = split_store(store.root, tmp_path / "train", tmp_path / "held", fraction=0.4)
    chosen = filter_store(parts[0].root, tmp_path / "chosen", sources=["text.jsonl"])
    for derived in (*parts, chosen):
        assert derived.manifest.rounding == store.manifest.rounding
        assert verify(derived.root).is_sound
    other = store_with(tmp_path / "b", TEXTS[3:], {"layer_0": of(0.2, 1)})
    merged = merge_stores([store.root, other.root], tmp_path / "merged")
    assert merged.manifest.rounding == {"layer_0": of(0.2, 2)}
