"""A table of shards is sent with the store, and fetched before it is known what else to fetch."""

from __future__ import annotations

from pathlib import Path

import pytest

from softtargets import Store, verify
from softtargets.errors import CorruptionError
from softtargets.sharing import pull, push
from tests.fakes import build_store
from tests.hub import Hub, files_of
from tests.sharing.test_push import pushed_files

NAME, TABLE = "org/targets", "shards.parquet"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def tabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr("softtargets.store.shard_table_file.LISTED_SHARDS", 0)
    (tmp_path / "tabled").mkdir()
    return build_store(tmp_path / "tabled")


def test_a_store_with_a_table_is_pushed_and_pulled(tabled: Store, hub: Hub, tmp_path: Path) -> None:
    push(tabled, NAME, api=hub.client())
    expected = files_of(tabled.root)
    assert TABLE in expected
    assert pushed_files(hub.datasets[NAME]) == expected
    assert push(tabled, NAME, api=hub.client()).num_files == 0
    pulled = pull(NAME, tmp_path / "pulled", api=hub.client())
    assert files_of(tmp_path / "pulled") == expected
    assert verify(pulled.store).is_sound
    (tmp_path / "pulled" / TABLE).unlink()
    assert pull(NAME, tmp_path / "pulled", api=hub.client()).num_files == 1
    assert files_of(tmp_path / "pulled") == expected


def test_a_damaged_table_is_not_pulled(tabled: Store, hub: Hub, tmp_path: Path) -> None:
    files = files_of(tabled.root)
    hub.add(NAME, {**files, TABLE: files[TABLE][:-1] + b"?"})
    with pytest.raises(CorruptionError, match=r"shards\.parquet: expected .* with SHA-256"):
        pull(NAME, tmp_path / "pulled", api=hub.client())
    assert not (tmp_path / "pulled").exists()


def test_a_table_of_a_store_that_is_replaced_goes(tabled: Store, store: Store, hub: Hub) -> None:
    files = files_of(tabled.root)
    other = f"shards-{'0' * 16}.parquet"
    hub.add(NAME, {"manifest.json": b"{}", other: files[TABLE], "shards-of-mine.parquet": b""})
    push(store, NAME, api=hub.client(), replace=True)
    found = pushed_files(hub.datasets[NAME])
    assert other not in found and "shards-of-mine.parquet" in found
