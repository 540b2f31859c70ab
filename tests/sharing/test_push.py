"""Pushing and pulling by the Hub's real client, to a stand-in for the Hub."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from softtargets import Store, verify
from softtargets.errors import (
    CorruptionError,
    FormatError,
    IdentityError,
    InputError,
    StoreError,
)
from softtargets.sharing import pull, push
from tests.fakes import build_store
from tests.golden import GOLDEN
from tests.hub import READER, Dataset, Hub, files_of

NAME = "org/targets"
# The client sends files by an argument that httpx would have called otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def cut_commits(patch: pytest.MonkeyPatch, num_files: int) -> None:
    """Let a commit take a few files only."""
    # The package's attribute of this name is the function.
    patch.setattr(import_module("softtargets.sharing.pushing"), "_COMMIT_FILES", num_files)


def pushed_files(dataset: Dataset, revision: str = "main") -> dict[str, bytes]:
    files = dict(dataset.files(revision))
    files.pop(".gitattributes", None)
    return files


def check_every_commit(dataset: Dataset) -> None:
    """Check that at no commit a manifest is without its files."""
    for files in dataset.commits.values():
        if "manifest.json" in files:
            manifest = json.loads(files["manifest.json"])
            for shard in manifest["shards"]:
                assert len(files[shard["path"]]) == shard["num_bytes"]


@pytest.mark.slow
def test_what_is_pushed_is_pulled(store: Store, hub: Hub, tmp_path: Path) -> None:
    (store.root / "notes.txt").write_text("not of the store")
    result = push(store, NAME, api=hub.client())
    expected = files_of(store.root)
    del expected["notes.txt"]
    assert pushed_files(hub.datasets[NAME]) == expected
    assert (result.num_files, result.num_bytes) == (
        len(expected),
        sum(len(content) for content in expected.values()),
    )
    assert result.url == "hf://datasets/org/targets"
    assert len(result.unstated_licences) == 4
    assert hub.datasets[NAME].messages == [f"Push soft targets {store.fingerprint[:12]}"]
    assert not hub.datasets[NAME].private

    pulled = pull(NAME, tmp_path / "pulled", api=hub.client(READER))
    assert files_of(tmp_path / "pulled") == expected
    assert pulled.num_files == len(store.manifest.shards) + 1
    assert pulled.store.fingerprint == store.fingerprint
    assert verify(pulled.store).is_sound

    # Both do nothing where all is there.
    hub.requests.clear()
    again = push(store, NAME, api=hub.client())
    assert (again.num_files, again.num_bytes) == (0, 0)
    assert again.commit == result.commit
    again_pulled = pull(NAME, tmp_path / "pulled", api=hub.client(False))
    assert again_pulled.num_files == 0
    assert not hub.asked_for("PUT", "") + hub.asked_for("POST", "")
    assert not hub.asked_for("GET", "/shards/")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["topk-1.0", "topk-1.1", "topk-1.2", "with-output-head-1.1"])
def test_stores_of_every_version_are_shared(name: str, hub: Hub, tmp_path: Path) -> None:
    root = Path(shutil.copytree(GOLDEN / name / "store", tmp_path / "store"))
    push(root, NAME, api=hub.client())
    assert (root / "README.md").is_file()
    assert pushed_files(hub.datasets[NAME]) == files_of(root)
    pull(NAME, tmp_path / "pulled", api=hub.client())
    assert files_of(tmp_path / "pulled") == files_of(root)


@pytest.mark.slow
def test_an_edited_card_is_pushed_alone(store: Store, hub: Hub, tmp_path: Path) -> None:
    push(store, NAME, api=hub.client())
    card = store.root / "README.md"
    card.write_text(card.read_text().replace("# license: apache-2.0", "license: mit"))
    hub.requests.clear()
    result = push(store, NAME, message="State the licence", api=hub.client())
    assert result.num_files == 1
    assert "license, in the YAML" not in result.unstated_licences
    assert hub.datasets[NAME].messages[-1] == "State the licence"
    assert pushed_files(hub.datasets[NAME])["README.md"] == card.read_bytes()
    pull(NAME, tmp_path / "pulled", api=hub.client())
    assert (tmp_path / "pulled" / "README.md").read_bytes() == card.read_bytes()


def test_an_interrupted_push_sends_only_what_is_missing(store: Store, hub: Hub) -> None:
    num_files = len(store.manifest.shards) + 1
    assert num_files > 3
    hub.refuse_after("PUT", "/objects/", 2)
    with pytest.raises(StoreError, match=r"org/targets: expected permission; found .*403"):
        push(store, NAME, api=hub.client())
    sent = set(hub.objects)
    assert len(sent) == 2
    assert set(hub.datasets[NAME].files()) == {".gitattributes"}
    hub.allow()
    push(store, NAME, api=hub.client())
    assert len(hub.asked_for("PUT", "/objects/")) == num_files - 2
    assert pushed_files(hub.datasets[NAME]) == files_of(store.root)


@pytest.mark.slow
@pytest.mark.parametrize("num_commits", [0, 1, 2])
def test_a_manifest_comes_with_or_after_its_files(
    store: Store, hub: Hub, num_commits: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cut_commits(monkeypatch, 2)
    hub.refuse_after("POST", f"{NAME}/commit/", num_commits)
    with pytest.raises(StoreError, match=r"commit/main.*HF_TOKEN"):
        push(store, NAME, api=hub.client())
    assert "manifest.json" not in hub.datasets[NAME].files()
    with pytest.raises(StoreError, match="found a repository without one"):
        pull(NAME, tmp_path / "early", api=hub.client())
    assert not (tmp_path / "early").exists()
    hub.allow()
    push(store, NAME, api=hub.client())
    assert (
        len(hub.asked_for("PUT", "/objects/")) <= len(store.manifest.shards) + 1 - num_commits * 2
    )
    assert pushed_files(hub.datasets[NAME]) == files_of(store.root)
    assert hub.datasets[NAME].messages[-1].endswith(")")
    check_every_commit(hub.datasets[NAME])


@pytest.mark.slow
@pytest.mark.parametrize("files_of_a_commit", [2, 100])
def test_another_store_is_replaced_only_when_told_to(
    store: Store, hub: Hub, files_of_a_commit: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        import_module("softtargets.sharing.pushing"), "_COMMIT_FILES", files_of_a_commit
    )
    push(store, NAME, api=hub.client())
    (tmp_path / "other").mkdir()
    other = build_store(tmp_path / "other", unit_tokens=200, temperatures=(1.0,))
    before = hub.datasets[NAME].branches["main"]
    with pytest.raises(IdentityError, match=rf"expected {other.fingerprint}.* --replace"):
        push(other, NAME, api=hub.client())
    assert hub.datasets[NAME].branches["main"] == before
    push(other, NAME, replace=True, api=hub.client())
    assert pushed_files(hub.datasets[NAME]) == files_of(other.root)
    check_every_commit(hub.datasets[NAME])

    hub.datasets[NAME].commits[before]["manifest.json"] = b"{}"
    hub.datasets[NAME].branches["main"] = before
    with pytest.raises(FormatError, match=r"org/targets/manifest.json"):
        push(other, NAME, api=hub.client())
    push(other, NAME, replace=True, api=hub.client())
    assert pushed_files(hub.datasets[NAME]) == files_of(other.root)


def test_what_begins_another_store_is_not_mixed(store: Store, hub: Hub, tmp_path: Path) -> None:
    """What an interrupted push of another store left, or somebody's files in the same place."""
    hub.add(NAME, {"shards/unit-000000.parquet": b"other", "shards/a.parquet": b"", "b.txt": b""})
    with pytest.raises(StoreError, match=r"found 2 others .* such as shards/a.parquet"):
        push(store, NAME, api=hub.client())
    push(store, NAME, replace=True, api=hub.client())
    assert pushed_files(hub.datasets[NAME]) == {**files_of(store.root), "b.txt": b""}


def test_the_same_store_in_other_bytes_is_pushed_over(
    store: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_commits(monkeypatch, 2)
    push(store, NAME, api=hub.client())
    path = store.root / "manifest.json"
    path.write_text(path.read_text().replace('"created_by": "', '"created_by": "another '))
    push(store.root, NAME, api=hub.client())
    assert pushed_files(hub.datasets[NAME]) == files_of(store.root)


@pytest.mark.slow
def test_a_branch_and_a_private_repository(store: Store, hub: Hub, tmp_path: Path) -> None:
    result = push(store, f"{NAME}@v1", private=True, api=hub.client())
    assert result.url == "hf://datasets/org/targets@v1"
    dataset = hub.datasets[NAME]
    assert dataset.private
    assert set(dataset.files("main")) == {".gitattributes"}
    assert pushed_files(dataset, "v1") == files_of(store.root)
    assert push(store, NAME, revision="v1", api=hub.client()).num_files == 0
    for revision in ("v1", result.commit):
        pull(f"{NAME}@{revision}", tmp_path / "pulled", api=hub.client(READER))
    assert files_of(tmp_path / "pulled") == files_of(store.root)

    with pytest.raises(StoreError, match=r"or a private one, and no token is set.*hf auth login"):
        pull(f"{NAME}@v1", tmp_path / "not", api=hub.client(False))
    with pytest.raises(StoreError, match=r"expected a branch, tag or commit v2; found none"):
        pull(f"{NAME}@v2", tmp_path / "not", api=hub.client())
    with pytest.raises(StoreError, match="or a private one, with the token that is set"):
        pull("org/nothing", tmp_path / "not", api=hub.client())
    assert not (tmp_path / "not").exists()


def test_a_public_repository_is_not_taken_for_a_private_one(store: Store, hub: Hub) -> None:
    hub.add(NAME, {})
    with pytest.raises(InputError, match="expected a new repository, or one that is private"):
        push(store, NAME, private=True, api=hub.client())
    assert not hub.objects


@pytest.mark.parametrize(("token", "message"), [(READER, "with the token"), (False, "no token")])
@pytest.mark.parametrize("is_there", [True, False])
def test_who_may_not_write_is_told_so(
    store: Store, hub: Hub, token: str | bool, message: str, is_there: bool
) -> None:
    if is_there:
        hub.add(NAME, {})
    with pytest.raises(StoreError, match=rf"org/targets: expected .*{message}.*HF_TOKEN"):
        push(store, NAME, api=hub.client(token))
    assert not hub.objects


def test_a_damaged_store_is_not_pushed(store: Store, hub: Hub) -> None:
    path = store.root / "shards" / "unit-000001.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    with pytest.raises(CorruptionError, match=r"unit-000001.parquet: expected SHA-256"):
        push(store, NAME, api=hub.client())
    path.unlink()
    with pytest.raises(CorruptionError, match=r"unit-000001.parquet: .*no file"):
        push(store, NAME, api=hub.client())
    assert not hub.objects


def test_somebody_elses_push_is_not_overwritten(store: Store, hub: Hub) -> None:
    dataset = hub.add(NAME, {})

    def interfere(method: str, path: str) -> int | None:
        if path.endswith("/info/lfs/objects/batch"):
            dataset.commit("main", {"theirs.txt": b""}, "Theirs")
        return None

    hub.refuse = interfere
    with pytest.raises(StoreError, match=r"Somebody else changed it. Run the same command again"):
        push(store, NAME, api=hub.client())
    assert set(dataset.files()) == {"theirs.txt"}
    hub.allow()
    push(store, NAME, api=hub.client())
    assert pushed_files(dataset) == {**files_of(store.root), "theirs.txt": b""}


def test_a_card_that_the_hub_refuses_is_named(store: Store, hub: Hub) -> None:
    card = store.root / "README.md"
    card.write_text(card.read_text().replace("# license: apache-2.0", "license: {a: b}"))
    with pytest.raises(StoreError, match=r"README.md.*license"):
        push(store, NAME, api=hub.client())


def test_names_that_are_none(store: Store) -> None:
    for name in ("name", "org/name/more", "org/name@", "hf://datasets/org/name"):
        with pytest.raises(InputError, match="expected org/name or org/name@revision"):
            push(store, name)
    with pytest.raises(InputError, match="one revision at most"):
        push(store, "org/name@v1", revision="v2")
