"""Every command that reads or writes a store does so where a table lists the shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from softtargets import SoftTargetDataset, Store
from softtargets.capture import Corpus
from softtargets.store.card import CARD_NAME
from tests.commands import run
from tests.fakes import build_store, write_corpus

pytestmark = pytest.mark.slow

NAME = "shards.parquet"


@pytest.fixture(autouse=True)
def _lists_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softtargets.store.shard_table_file.LISTED_SHARDS", 0)


@pytest.fixture
def tabled(tmp_path: Path) -> Store:
    (tmp_path / "tabled").mkdir()
    return build_store(tmp_path / "tabled")


def check(root: Path) -> Store:
    """Check that a store is sound and that a table of its own lists its shards."""
    assert run("verify", root).exit_code == 0
    store = Store.open(root)
    assert store.manifest.shard_table is not None
    assert store.manifest.shard_table.num_shards == len(store.manifest.shards) > 0
    assert sum(path.stat().st_size for path in (root / "shards").iterdir()) == store.num_bytes
    return store


def ids(store: Store) -> list[str]:
    return [window.window_id for window in store]


def test_what_is_made_of_stores_has_a_table_of_its_own(tabled: Store, tmp_path: Path) -> None:
    check(tabled.root)
    train, held_out = tmp_path / "train", tmp_path / "held-out"
    run("split", tabled.root, "--train", train, "--validation", held_out, "--fraction", "0.3")
    parts = [check(train), check(held_out)]
    assert sorted(ids(parts[0]) + ids(parts[1])) == sorted(ids(tabled))
    corpus = Corpus(paths=(write_corpus(tmp_path / "other.jsonl", ["Another text."]),))
    other = build_store(tmp_path, corpus=corpus)
    run("merge", tabled.root, other.root, "--output", tmp_path / "merged")
    assert ids(check(tmp_path / "merged")) == ids(tabled) + ids(other)
    run("filter", tabled.root, "--output", tmp_path / "filtered", "--trained-only")
    assert ids(check(tmp_path / "filtered")) == ids(tabled)


def test_a_store_goes_out_and_comes_in(tabled: Store, tmp_path: Path) -> None:
    run("export", tabled.root, tmp_path / "plain", "--to", "plain")
    assert not list((tmp_path / "plain").glob("*shards*"))
    run("import", tmp_path / "plain", "--from", "plain", "--output", tmp_path / "again")
    assert ids(check(tmp_path / "again")) == ids(tabled)


def test_what_is_said_of_a_store_is_the_same(tabled: Store) -> None:
    data = json.loads(run("info", tabled.root, "--json", "--detail").output)
    assert data["num_shards"] == len(tabled.manifest.shards)
    assert data["file_bytes"][NAME] == (tabled.root / NAME).stat().st_size
    before = (tabled.root / CARD_NAME).read_text()
    run("card", tabled.root)
    assert (tabled.root / CARD_NAME).read_text() == before
    assert "path: shards/*.parquet" in before
    page = tabled.root.parent / "page.html"
    run("report", tabled.root, "--output", page)
    assert NAME in page.read_text()


def test_clean_removes_tables_of_late_commits_and_nothing_else(tabled: Store) -> None:
    late = tabled.root / f"shards-{'0' * 16}.parquet"
    theirs = tabled.root / "shards-of-mine.parquet"
    for path in (late, theirs):
        path.write_bytes(b"of another")
    assert late.name in run("verify", tabled.root).output
    run("clean", tabled.root)
    assert not late.exists() and theirs.exists()
    check(tabled.root)


def test_a_student_reads_the_windows_of_a_table(tabled: Store) -> None:
    dataset = SoftTargetDataset(tabled.root, shuffle=True, seed=0, batch_size=4)
    found = [one for batch in dataset for one in batch["window_id"]]
    assert sorted(found) == sorted(ids(tabled))
