"""Stores of released formats are read to the same arrays by every later release."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from softtargets.capture import Corpus
from softtargets.store import Store, merge_stores, verify
from softtargets.store.versions import version_of
from softtargets.targets import columns_of
from tests.fakes import build_store, write_corpus
from tests.golden import GOLDEN, arrays_of, logprobs_of
from tests.golden_cases import CASES, make_golden
from tests.plain_reader import read_store
from tests.store.test_codec import assert_same
from tests.windows import KINDS, topk_schema

STORES = sorted(path.name for path in GOLDEN.iterdir())


FROM_FILES = {"derived", "imported", "merged"}
"""Made from stores and files that were written first, with the releases of that day."""


def expected_of(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a golden store, without the log-probabilities that newer ones have."""
    with np.load(GOLDEN / name / "expected.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays if key != "logprobs"}


def test_every_kind_of_target_and_every_case_has_a_golden_store() -> None:
    assert {name[:-4] for name in STORES} == {*KINDS, *CASES}


WITH_ENTRIES = [
    name
    for name in STORES
    if name[-3:] > "1.2" and (name[:-4] not in KINDS or KINDS[name[:-4]].head is not None)
]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_ENTRIES)
def test_log_probabilities_of_a_golden_store_stay(name: str) -> None:
    store = Store.open(GOLDEN / name / "store")
    with np.load(GOLDEN / name / "expected.npz", allow_pickle=False) as arrays:
        np.testing.assert_allclose(logprobs_of(store), arrays["logprobs"], rtol=1e-6, atol=1e-7)
        assert (arrays["logprobs"] <= 0).all()


@pytest.mark.parametrize("name", STORES)
def test_a_golden_store_is_read_to_the_same_arrays(name: str) -> None:
    store = Store.open(GOLDEN / name / "store")
    assert store.manifest.format_version == name[-3:]
    expected, found = expected_of(name), arrays_of(store)
    assert set(expected) == set(found)
    for array in expected:
        assert found[array].dtype == expected[array].dtype, array
        np.testing.assert_array_equal(found[array], expected[array], array)
    assert verify(store.root).problems == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", STORES)
def test_the_specification_is_enough_to_read_them(name: str) -> None:
    """A reader written from FORMAT.md alone finds the same."""
    expected, found = expected_of(name), read_store(GOLDEN / name / "store")
    # What a store does not have, our reader gives as no entry and all mass in the tail.
    absent = {key for key in expected if expected[key].ndim == 2 and expected[key].shape[1] == 0}
    if "ids" in absent:
        absent |= {"num_entries", "tail_mass"}
        assert (expected["tail_mass"] == 1).all()
        assert (expected["num_entries"] == 0).all()
    assert set(found) == set(expected) - absent
    for array in found:
        np.testing.assert_array_equal(
            found[array].astype(expected[array].dtype), expected[array], array
        )


def test_golden_stores_hold_what_is_hard() -> None:
    counts = expected_of("topk-1.1")["num_entries"]
    assert 0 < (counts < counts.max()).sum() < len(counts)
    assert expected_of("topk-of-262144-1.1")["ids"].max() > 1 << 17
    hybrid = expected_of("hybrid-1.1")
    assert (hybrid["num_samples"] == 0).any()
    assert (hybrid["tail_mass"] == 0).any()
    assert hybrid["sample_counts"].max() > 1
    assert not expected_of("topk-1.1")["mask"].all()
    store = Store.open(GOLDEN / "topk-1.1" / "store")
    assert sum(len(window.packed.cells["escapes"]) for window in store) > 5


def is_written_today(name: str) -> bool:
    return name != "topk-1.0" and name[:-4] not in FROM_FILES


@pytest.mark.parametrize("name", [name for name in STORES if is_written_today(name)])
def test_what_is_written_today_is_what_was_written(name: str, tmp_path: Path) -> None:
    """The same windows give the same columns; their bytes may change with pyarrow."""
    store = make_golden(tmp_path / "store", name[:-4])
    golden = Store.open(GOLDEN / name / "store")
    assert store.manifest.identity == golden.manifest.identity
    is_current = golden.manifest.format_version == store.manifest.format_version
    assert (store.fingerprint == golden.fingerprint) == is_current
    names = [column.name for column in columns_of(store.targets)]
    for shard in range(len(golden.manifest.shards)):
        with store.open_shard(shard) as one, golden.open_shard(shard) as other:
            # A label that is not known is NaN, which equals nothing.
            tables = [str(shard.read_columns(names).to_pydict()) for shard in (one, other)]
            assert tables[0] == tables[1]


def test_a_store_of_an_older_format_is_one_of_the_current(tmp_path: Path) -> None:
    """It keeps its fingerprint, and goes together with what the same teacher gives today."""
    old = Store.open(GOLDEN / "topk-1.0" / "store")
    written = json.loads((old.root / "manifest.json").read_text())
    assert old.fingerprint == written["fingerprint"]
    assert old.targets == dataclasses.replace(topk_schema(), tokenizer_vocab_size=256)
    corpus = Corpus(paths=(write_corpus(tmp_path / "other.jsonl", ["Another text, read later."]),))
    new = build_store(tmp_path, corpus=corpus, unit_tokens=300)
    merged = merge_stores([old.root, new.root], tmp_path / "merged")
    assert merged.manifest.format_version == version_of(merged.targets)
    # It has no vocabulary of its own, and that of the other names its tokens too.
    assert old.vocabulary is None
    assert_same(merged.vocabulary, new.vocabulary)
    assert [window.window_id for window in merged] == [
        window.window_id for store in (old, new) for window in store
    ]
    assert verify(merged.root).is_sound
