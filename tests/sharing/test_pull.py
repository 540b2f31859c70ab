"""Pulling stores: interrupted, damaged, refused, and by the commands."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from softtargets import Store, verify
from softtargets.errors import BusyError, CorruptionError, IdentityError, StoreError
from softtargets.places.lock import hold_lock
from softtargets.places.tree import Tree
from softtargets.sharing import pull, push
from tests.commands import run
from tests.fakes import build_store, write_corpus
from tests.hub import COMMIT, READER, WRITER, Hub, files_of
from tests.test_documents import code_blocks

NAME = "org/targets"


@pytest.fixture
def shared(store: Store, hub: Hub) -> dict[str, bytes]:
    """The files of a store that is on the Hub, with some that are not the store's."""
    files = files_of(store.root)
    hub.add(NAME, {**files, "notes.txt": b"", "shards/other.parquet": b"", ".gitattributes": b""})
    return files


def test_only_the_store_is_pulled(shared: dict[str, bytes], hub: Hub, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    result = pull(
        NAME, tmp_path / "pulled", api=hub.client(READER), on_file=lambda *n: told.append(n)
    )
    assert files_of(tmp_path / "pulled") == shared
    num_files = len(shared) - 2
    assert result.num_files == num_files
    assert result.commit == COMMIT
    assert told == [(number, num_files) for number in range(1, num_files + 1)]


def test_an_interrupted_pull_goes_on(shared: dict[str, bytes], hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "pulled"
    damaged = dict(shared)
    hub.refuse = lambda method, path: 403 if path.endswith("unit-000002.parquet") else None
    with pytest.raises(StoreError, match="expected permission"):
        pull(NAME, root, api=hub.client())
    assert not (root / "manifest.json").exists()
    with pytest.raises(StoreError, match=r"found an unfinished pull. Run the same 'softtargets p"):
        Store.open(root)
    arrived = {path for path in files_of(root) if path in damaged}
    assert arrived
    for path in arrived:
        assert (root / path).read_bytes() == shared[path]
    hub.allow()
    pull(NAME, root, api=hub.client())
    asked = {path.partition(f"{COMMIT}/")[2] for path in hub.asked_for("GET", "/resolve/")}
    assert asked & set(shared) == set(shared) - arrived | {"manifest.json"}
    assert files_of(root) == shared


def test_what_was_pulled_is_repaired(shared: dict[str, bytes], hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "pulled"
    pull(NAME, root, api=hub.client())
    shard = root / "shards" / "unit-000001.parquet"
    shard.write_bytes(b"?" + shard.read_bytes()[1:])
    (root / "README.md").write_text("mine")
    assert pull(NAME, root, api=hub.client()).num_files == 1
    assert files_of(root) == {**shared, "README.md": b"mine"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shards/unit-000001.parquet", "vocabulary.parquet"])
def test_damage_at_the_hub_names_the_file(
    shared: dict[str, bytes], hub: Hub, tmp_path: Path, name: str
) -> None:
    root, files = tmp_path / "pulled", hub.datasets[NAME].files()
    middle = len(shared[name]) // 2
    files[name] = (
        bytes([*shared[name][:middle], shared[name][middle] ^ 1]) + shared[name][middle + 1 :]
    )
    for _ in range(2):
        with pytest.raises(CorruptionError, match=rf"org/targets/{name}: expected SHA-256"):
            pull(NAME, root, api=hub.client())
        assert not (root / "manifest.json").exists()
        assert not (root / name).exists()
    del files[name]
    with pytest.raises(CorruptionError, match=rf"org/targets/{name}: .*found no file"):
        pull(NAME, root, api=hub.client())
    files[name] = shared[name]
    pull(NAME, root, api=hub.client())
    assert files_of(root) == shared


@pytest.mark.slow
def test_a_directory_with_something_else_is_refused(
    shared: dict[str, bytes], hub: Hub, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = build_store(tmp_path / "other", temperatures=(1.0,))
    before = files_of(other.root)
    with pytest.raises(IdentityError, match=rf"found {other.fingerprint}. Pull to another"):
        pull(NAME, other.root, api=hub.client())
    assert files_of(other.root) == before

    # The same by its fingerprint, but other files.
    mine = build_store(tmp_path / "other" / "..", output=tmp_path / "mine")
    manifest = mine.root / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"created_by": "', '"created_by": "another '))
    with pytest.raises(IdentityError, match=rf"found {mine.fingerprint}, in other files"):
        pull(NAME, mine.root, api=hub.client())

    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "thesis.tex").write_text("")
    with pytest.raises(StoreError, match=r"found 1 other entries, among them 'thesis.tex'"):
        pull(NAME, notes, api=hub.client())
    with pytest.raises(StoreError, match="expected a directory, or nothing yet; found a file"):
        pull(NAME, notes / "thesis.tex", api=hub.client())
    assert list(notes.iterdir()) == [notes / "thesis.tex"]


@pytest.mark.slow
def test_an_unfinished_pull_of_another_store_is_refused(
    shared: dict[str, bytes], hub: Hub, tmp_path: Path
) -> None:
    root = tmp_path / "pulled"
    hub.refuse = lambda method, path: 403 if path.endswith("unit-000002.parquet") else None
    with pytest.raises(StoreError, match="expected permission"):
        pull(NAME, root, api=hub.client())
    before = files_of(root)
    hub.allow()
    (tmp_path / "other").mkdir()
    other = build_store(tmp_path / "other", temperatures=(1.0,))
    hub.add("org/other", files_of(other.root))
    with pytest.raises(IdentityError, match=f"expected {other.fingerprint}"):
        pull("org/other", root, api=hub.client())
    assert files_of(root) == before


def test_two_pulls_to_a_directory(shared: dict[str, bytes], hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "pulled" / ".pull").mkdir(parents=True)
    with (
        hold_lock(Tree(tmp_path / "pulled"), ".pull/lock"),
        pytest.raises(BusyError, match=r"pulled: expected no other"),
    ):
        pull(NAME, tmp_path / "pulled", api=hub.client())


def test_without_network(
    hub: Hub, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = r"org/targets: .* HF_HUB_OFFLINE is set, .* Unset HF_HUB_OFFLINE"
    with pytest.raises(StoreError, match=message):
        pull(NAME, tmp_path / "pulled", api=hub.client())
    with pytest.raises(StoreError, match=message):
        push(store, NAME, api=hub.client())
    assert not (tmp_path / "pulled").exists()


def test_other_refusals_are_told(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, {})
    hub.refuse = lambda method, path: 418
    with pytest.raises(StoreError, match=r"org/targets: .* found .*418.* Do what the Hub says"):
        pull(NAME, tmp_path / "pulled", api=hub.client())


def test_no_server(hub: Hub, tmp_path: Path) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        hub.endpoint = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(StoreError, match=r"org/targets: .*refused.* Check the network"):
            pull(NAME, tmp_path / "pulled", api=hub.client())


def environment(hub: Hub, tmp_path: Path, token: str | None = None) -> dict[str, str]:
    """Return what sends the client of a process of its own to the stand-in."""
    given = {} if token is None else {"HF_TOKEN": token}
    return {
        **{name: value for name, value in os.environ.items() if name != "HF_TOKEN"},
        **given,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        # A server that is slow, or holds an answer back, is not given up.
        "HF_HUB_DOWNLOAD_TIMEOUT": "3600",
    }


def softtargets(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "softtargets", *map(str, arguments)]


READ_ALL = """
import json
from datasets import load_dataset
from softtargets import SoftTargetDataset
url = "hf://datasets/org/targets"
windows = [window.window_id for window in SoftTargetDataset(url)]
rows = load_dataset("org/targets", split="train", streaming=True)
tokens = load_dataset("org/targets", "vocabulary", split="train")
print(json.dumps([windows, [row["window_id"] for row in rows], len(tokens)]))
"""


@pytest.mark.slow
def test_the_commands_share_a_store(store: Store, hub: Hub, tmp_path: Path) -> None:
    """By the real client in processes of their own, as everybody runs it."""

    def call(command: list[str], token: str | None) -> subprocess.CompletedProcess[str]:
        env = environment(hub, tmp_path, token)
        return subprocess.run(command, env=env, capture_output=True, text=True)

    pushed = call(softtargets("push", store.root, NAME, "--private"), WRITER)
    assert pushed.returncode == 0, pushed.stderr
    assert 'SoftTargetDataset("hf://datasets/org/targets"' in pushed.stdout
    assert "does not state the licence yet" in pushed.stderr

    refused = call(softtargets("pull", NAME, tmp_path / "pulled"), None)
    assert refused.returncode == 1
    assert "no token is set" in refused.stderr
    assert "Traceback" not in refused.stderr

    pulled = call(softtargets("pull", NAME, tmp_path / "pulled"), READER)
    assert pulled.returncode == 0, pulled.stderr
    assert f"{len(store)} windows, every checksum holds; 5 files" in pulled.stdout
    assert files_of(tmp_path / "pulled") == files_of(store.root)

    read = call([sys.executable, "-W", "error::UserWarning", "-c", READ_ALL], READER)
    assert read.returncode == 0, read.stderr
    windows, rows, num_tokens = json.loads(read.stdout)
    assert windows == rows == store.window_ids()
    assert num_tokens == 256


@pytest.mark.slow
def test_the_commands_of_the_page_on_sharing_run(
    hub: Hub, tmp_path: Path, tiny_teacher: Path
) -> None:
    (tmp_path / "teacher").symlink_to(tiny_teacher)
    built = run(
        "build", "--teacher", tiny_teacher, "--input", write_corpus(tmp_path / "corpus.jsonl"),
        "--output", tmp_path / "my-store", "--dtype", "float32",
    )  # fmt: skip
    assert built.exit_code == 0, built.output
    [code] = code_blocks("docs/sharing.md", "sh")
    own = environment(hub, tmp_path, WRITER)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}"
    # New interpreters: the Hub's client reads its address when it is imported.
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=tmp_path,
        env=own | {"PATH": programs},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "every checksum holds" in done.stdout
    assert files_of(tmp_path / "pulled-store") == files_of(tmp_path / "my-store")
    card = (tmp_path / "pulled-store" / "README.md").read_text()
    assert "targets were scored by the teacher again" in card


@pytest.mark.slow
def test_a_pull_that_is_killed_goes_on(shared: dict[str, bytes], hub: Hub, tmp_path: Path) -> None:
    root, killed = tmp_path / "pulled", threading.Event()
    held = "shards/unit-000003.parquet"
    others = {name for name in shared if name.endswith(".parquet")} - {held}

    def hold(method: str, path: str) -> int | None:
        if method == "GET" and path.endswith(held):
            killed.wait()
        return None

    hub.refuse = hold
    with subprocess.Popen(
        softtargets("pull", NAME, root), env=environment(hub, tmp_path), stdout=subprocess.DEVNULL
    ) as process:
        while not all((root / name).is_file() for name in others):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    killed.set()
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(StoreError, match="an unfinished pull"):
        Store.open(root)
    hub.allow()
    pull(NAME, root, api=hub.client())
    fetched = {path.partition(f"{COMMIT}/")[2] for path in hub.asked_for("GET", "/resolve/")}
    assert not fetched & others
    assert files_of(root) == shared
    assert verify(root).is_sound
