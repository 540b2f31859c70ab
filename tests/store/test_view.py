from __future__ import annotations

import pickle
import re
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softtargets import SoftTargetDataset, collate
from softtargets.capture import Corpus, Windowing
from softtargets.errors import CorruptionError, IdentityError, InputError
from softtargets.store import Store, StoreView, filter_store
from softtargets.store.chosen_windows import is_held_out
from softtargets.store.shard_reader import ShardReader
from tests.fakes import TEXTS, build_store, write_corpus
from tests.golden import write_store
from tests.store.test_codec import assert_same
from tests.windows import KINDS, make_window


def ids(store: Store) -> list[str]:
    return [window.window_id for window in store]


def build_sources(directory: Path, num_sources: int = 3, repeats: int = 8) -> Store:
    """Return a store of several input files, each with several documents of several windows."""
    paths = []
    for number in range(num_sources):
        # No window may occur twice.
        texts = [TEXTS[0].replace(" ", f" {number}.{repeat} ") for repeat in range(repeats)]
        paths.append(write_corpus(directory / f"{number}.jsonl", texts))
    corpus = Corpus(paths=tuple(paths))
    return build_store(directory, corpus=corpus, unit_tokens=300)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build_sources(tmp_path_factory.mktemp("sources"))


def damage(store: Store, *, where: str) -> None:
    """Change a byte of every row group whose windows are all of one source."""
    for ref in store.row_groups:
        if {window.source for window in store.read_row_group(ref)} == {where}:
            entry = store.manifest.shards[ref.shard]
            path = store.root / entry.path
            content = bytearray(path.read_bytes())
            content[entry.row_groups[ref.group].offset + 9] ^= 1
            path.write_bytes(content)


@pytest.mark.slow
def test_chosen_sources_are_read_and_no_others(sources: Store) -> None:
    assert sources.sources == ("0.jsonl", "1.jsonl", "2.jsonl")
    for chosen in (["1.jsonl"], ["2.jsonl", "0.jsonl"], list(sources.sources)):
        view = sources.select(chosen)
        expected = [window for window in sources if window.source in chosen]
        assert ids(view) == [window.window_id for window in expected]
        assert len(view) == len(expected)
        assert view.window_ids() == ids(view)
        assert view.sources == tuple(sorted(chosen))
        assert view.num_positions == sum(len(window.packed) for window in expected)
        assert sum(ref.num_windows for ref in view.row_groups) == len(view)
        for window in sources:
            assert (window.window_id in view) == (window.source in chosen)
        assert_same(view[expected[-1].window_id], expected[-1])
        assert ids(view)[3:7] == [window.window_id for window in view.windows(3, 7)]
        places = np.array([5, 2])
        assert view.window_ids(places) == [ids(view)[5], ids(view)[2]]
    with pytest.raises(KeyError):
        sources.select(["0.jsonl"])[ids(sources.select(["1.jsonl"]))[0]]


@pytest.mark.slow
def test_row_groups_without_a_chosen_window_are_not_read(tmp_path: Path) -> None:
    store = build_sources(tmp_path)
    expected = ids(store.select(["2.jsonl"]))
    num_bytes = store.num_bytes
    damage(store, where="0.jsonl")
    again = Store.open(store.root)
    with pytest.raises(CorruptionError):
        ids(again)
    # Nor are they to find out which these are.
    view = again.select(["2.jsonl"])
    assert ids(view) == expected
    assert [window.window_id for window in SoftTargetDataset(view)] == expected
    assert 0 < view.num_bytes < num_bytes / 2
    with pytest.raises(CorruptionError):
        again.split()


@pytest.mark.slow
def test_sources_without_statistics_are_read(
    sources: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer need not keep any."""
    expected = ids(sources.select(["1.jsonl"]))
    monkeypatch.setattr(ShardReader, "_source_range", lambda *_: (None, None))
    assert ids(Store.open(sources.root).select(["1.jsonl"])) == expected


@pytest.mark.slow
def test_a_source_that_is_not_there_is_refused_with_those_that_are(
    sources: Store, tmp_path: Path
) -> None:
    for chosen, found in ((["1.jsonl", "4.jsonl"], "'4.jsonl'"), ([], "none")):
        message = f"expected some of '0.jsonl', '1.jsonl', '2.jsonl'; found {found}"
        with pytest.raises(InputError, match=re.escape(message)):
            sources.select(chosen)
    with pytest.raises(InputError, match=r"expected some of '1\.jsonl'; found '0\.jsonl'"):
        sources.select(["1.jsonl"]).select(["0.jsonl"])
    many = build_sources(tmp_path, num_sources=12, repeats=1)
    with pytest.raises(InputError, match=r"'7\.jsonl', '8\.jsonl', '9\.jsonl' and 2 more; found"):
        many.select(["nowhere"])


def documents(store: Store) -> dict[tuple[str, str], set[str]]:
    found = defaultdict(set)
    for window in store:
        found[window.source, window.document_ids[0]].add(window.window_id)
    return dict(found)


@pytest.mark.slow
@settings(max_examples=40)
@given(held_out=st.floats(0.01, 0.99), seed=st.integers(-5, 2**70))
def test_a_split_parts_no_document_and_loses_no_window(
    sources: Store, held_out: float, seed: int
) -> None:
    whole = documents(sources)
    if len({is_held_out(*document, held_out, seed) for document in whole}) == 1:
        with pytest.raises(InputError, match="documents for both parts"):
            sources.split(held_out, seed)
        return
    train, held = sources.split(held_out, seed)
    assert sorted(train.window_ids() + held.window_ids()) == sorted(sources.window_ids())
    assert max(len(windows) for windows in whole.values()) > 3
    for document, windows in whole.items():
        own = held if is_held_out(*document, held_out, seed) else train
        assert windows <= set(own.window_ids())
    # In the order of the corpus, both.
    order = {window_id: place for place, window_id in enumerate(sources.window_ids())}
    for part in (train, held):
        places = [order[window_id] for window_id in part.window_ids()]
        assert places == sorted(places)
    again = sources.split(held_out, seed)
    assert [part.fingerprint for part in again] == [train.fingerprint, held.fingerprint]
    assert again[1].window_ids() == held.window_ids()


@pytest.mark.slow
def test_windows_are_delivered_as_the_store_has_them(sources: Store) -> None:
    for part in sources.split(0.3, seed=1):
        for window in part:
            assert_same(window, sources[window.window_id])


def test_a_larger_share_has_what_a_smaller_has(sources: Store) -> None:
    shares = [set(sources.split(share)[1].window_ids()) for share in (0.15, 0.4, 0.8)]
    assert shares[0] < shares[1] < shares[2]
    other = set(sources.split(0.4, seed=1)[1].window_ids())
    assert other != shares[1]


def test_the_share_of_documents_is_what_was_asked_for() -> None:
    for held_out in (0.01, 0.1, 0.5):
        found = sum(is_held_out("a", str(number), held_out, 0) for number in range(20_000))
        deviation = (20_000 * held_out * (1 - held_out)) ** 0.5
        assert abs(found - 20_000 * held_out) < 4 * deviation


def test_which_part_a_document_is_in_never_changes() -> None:
    """Releases to come must split as this one does."""
    found = [number for number in range(40) if is_held_out("a.jsonl", str(number), 0.1, 0)]
    assert found == [4, 11, 12, 20, 29, 30]


@pytest.mark.slow
def test_other_stores_of_the_documents_are_split_alike(tmp_path: Path) -> None:
    store = build_sources(tmp_path)
    held = store.split(0.4)[1]
    moved = Store.open(shutil.copytree(store.root, tmp_path / "elsewhere"))
    assert moved.split(0.4)[1].fingerprint == held.fingerprint
    assert ids(moved.split(0.4)[1]) == ids(held)
    part = filter_store(store.root, tmp_path / "part", sources=["1.jsonl", "2.jsonl"])
    rest = filter_store(store.root, tmp_path / "rest", sources=["0.jsonl"])
    found = [one for other in (rest, part) for one in other.split(0.4)[1].window_ids()]
    assert found == ids(held)
    assert rest.split(0.4)[1].fingerprint != held.fingerprint


@pytest.mark.slow
def test_a_packed_window_goes_with_its_first_document(tmp_path: Path) -> None:
    corpus = Corpus(paths=(write_corpus(tmp_path / "a.jsonl", [f"{n} a" for n in range(200)]),))
    store = build_store(
        tmp_path, corpus=corpus, windowing=Windowing(kind="pack", sequence_length=16)
    )
    parts = store.split(0.3)
    whole = [set[str](), set[str]()]
    for part, found in zip(parts, whole, strict=True):
        for window in part:
            assert len(window.document_ids) > 1
            found |= set(window.document_ids)
    # Documents that fit into a window lie in no other.
    assert not whole[0] & whole[1]


@pytest.mark.parametrize("held_out", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_outside_its_range_is_refused(sources: Store, held_out: float) -> None:
    with pytest.raises(InputError, match="hold out: expected a number between 0 and 1"):
        sources.split(held_out)


def test_a_part_that_would_be_empty_is_refused(tmp_path: Path) -> None:
    corpus = Corpus(paths=(write_corpus(tmp_path / "a.jsonl", [" ".join(TEXTS)]),))
    store = build_store(tmp_path, corpus=corpus)
    assert len(store) > 3
    with pytest.raises(InputError, match=f"both parts; found all of {len(store)} windows in one"):
        store.split(0.5)


def test_fingerprints_are_functions_of_store_and_choice(sources: Store, tmp_path: Path) -> None:
    views = [sources.select(["0.jsonl"]), sources.select(["1.jsonl"])]
    views += [*sources.split(0.4), *sources.split(0.4, seed=1), *sources.split(0.5)]
    views += [*views[0].split(0.4), sources.split(0.4)[0].select(["0.jsonl"])]
    found = {view.fingerprint for view in views}
    assert len(found | {sources.fingerprint}) == len(views) + 1
    assert all(re.fullmatch("[0-9a-f]{64}", one) for one in found)
    same = sources.select(["1.jsonl", "0.jsonl", "1.jsonl"])
    assert same.fingerprint == sources.select(["0.jsonl", "1.jsonl"]).fingerprint


@pytest.mark.slow
def test_views_are_chosen_from(sources: Store) -> None:
    train, held = sources.select(["0.jsonl", "2.jsonl"]).split(0.4, seed=3)
    for part, whole in zip((train, held), sources.split(0.4, seed=3), strict=True):
        expected = [window.window_id for window in whole if window.source != "1.jsonl"]
        assert ids(part) == expected == part.window_ids()
        assert ids(whole.select(["0.jsonl", "2.jsonl"])) == expected
    assert "select" in repr(train)
    assert f"{len(train)} of {len(sources)} windows" in repr(train)


@pytest.mark.slow
@pytest.mark.parametrize("shuffle_groups", [1, None])
@pytest.mark.parametrize("num_threads", [0, 1])
def test_the_stream_of_a_view_is_that_of_its_windows(
    sources: Store, shuffle_groups: int | None, num_threads: int
) -> None:
    view = sources.split(0.4)[0]
    dataset = SoftTargetDataset(
        view,
        shuffle=True,
        batch_size=4,
        shuffle_groups=shuffle_groups,
        num_threads=num_threads,
        top_k=3,
    )
    batches = list(dataset)
    found = [window_id for batch in batches for window_id in batch["window_id"]]
    assert sorted(filter(None, found)) == sorted(view.window_ids())
    assert found[:4] == dataset.plan(0)
    assert dataset.fingerprint == view.fingerprint
    expected = collate([sources[window_id] for window_id in found[:4]])
    assert batches[0]["input_ids"].equal(expected["input_ids"])
    state = dataset.state_dict(after=batches[2])
    dataset.load_state_dict(state)
    assert [batch["window_id"] for batch in dataset] == [
        batch["window_id"] for batch in batches[3:]
    ]
    for other in (sources, sources.split(0.4, seed=2)[0], sources.split(0.4)[1]):
        with pytest.raises(IdentityError, match="fingerprint"):
            SoftTargetDataset(other, shuffle=True, batch_size=4).load_state_dict(state)


def test_a_view_travels_to_another_process(sources: Store) -> None:
    view: StoreView = pickle.loads(pickle.dumps(sources.split(0.4)[1]))
    assert ids(view) == ids(sources.split(0.4)[1])
    assert view.vocabulary is not None


@pytest.mark.slow
def test_damage_is_raised(tmp_path: Path) -> None:
    store = build_sources(tmp_path)
    view = store.select(["1.jsonl"])
    damage(store, where="1.jsonl")
    with pytest.raises(CorruptionError, match="row group"):
        ids(view)


def test_an_empty_list_of_documents_is_an_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    windows = [make_window(rng)[0] for _ in range(3)]
    object.__setattr__(windows[1], "document_ids", ())
    store = write_store(tmp_path / "store", KINDS["topk"], [windows])
    with pytest.raises(CorruptionError, match="row group 0"):
        store.split(0.5)
