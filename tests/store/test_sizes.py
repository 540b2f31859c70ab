from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from softtargets.cli import main
from softtargets.report.number_texts import bytes_text
from softtargets.report.page import report
from softtargets.store import Store
from softtargets.store.sizes import store_sizes
from tests.fakes import build_store
from tests.golden import make_store
from tests.object_store import Bucket


def bytes_in(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", ["topk", "with-output-head"])
def test_sizes_are_those_of_all_files_of_the_directory(tmp_path: Path, kind: str) -> None:
    store = make_store(tmp_path / "store", kind)
    sizes = store_sizes(store)
    assert sizes.total == sum(sizes.files.values()) == bytes_in(store.root)
    assert sizes.shards == bytes_in(store.root / "shards")
    for name, size in {**sizes.fixed, "manifest.json": sizes.manifest}.items():
        assert size == (store.root / name).stat().st_size
    assert ("head.parquet" in sizes.fixed) == (kind == "with-output-head")
    assert {"vocabulary.parquet", "README.md"} <= set(sizes.fixed)


def test_a_store_without_a_card_has_a_size(store: Store) -> None:
    (store.root / "README.md").unlink()
    assert store_sizes(store).total == bytes_in(store.root)


@pytest.mark.slow
def test_sizes_behind_a_url_are_the_same(store: Store, bucket: Bucket) -> None:
    assert store_sizes(Store.open(bucket.copy(store))) == store_sizes(store)


@pytest.mark.slow
def test_what_is_shown_counts_all_files(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    total, sizes = bytes_text(bytes_in(store.root)), store_sizes(store)
    shown = CliRunner().invoke(main, ["info", str(store.root)], terminal_width=200).output
    text = " ".join(shown.split())
    assert f"size {total}: {bytes_text(sizes.shards)} in " in text
    assert f"vocabulary.parquet {bytes_text(sizes.fixed['vocabulary.parquet'])}" in text
    page = " ".join(report(store).split())
    assert f"{bytes_text(sizes.shards)} of the {total} in all" in page
    assert f"The store takes {total} in all" in page
    data = json.loads(CliRunner().invoke(main, ["info", "--json", str(store.root)]).output)
    assert data["total_bytes"] == sum(data["file_bytes"].values()) == bytes_in(store.root)
    assert data["num_bytes"] == data["file_bytes"]["shards"] == sizes.shards
