"""Datasets that were saved to a directory, and one of a stand-in for the Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from softtargets.capture import DatasetCorpus, build
from softtargets.errors import CorpusError, IdentityError
from softtargets.store import verify
from tests.fakes import TEXTS, FakeTeacher, build_config
from tests.hub import COMMIT, serve_dataset

ROWS = [{"text": text, "id": f"d{number}", "n": number} for number, text in enumerate(TEXTS)]


def save(path: Path, rows: list[dict[str, Any]] = ROWS, **options: Any) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(path, **options)
    return path


@pytest.fixture(autouse=True)
def without_bars() -> None:
    datasets.disable_progress_bars()


def test_a_saved_dataset_is_read_row_by_row(tmp_path: Path) -> None:
    path = save(tmp_path / "saved", num_shards=2)
    corpus = DatasetCorpus(dataset=str(path), id_field="id", metadata_fields=("n",))
    documents = list(corpus.documents())
    assert [one.content for one in documents] == list(TEXTS)
    assert documents[1].document_id == "d1"
    assert documents[1].metadata == {"n": "1"}
    assert {one.source for one in documents} == {"saved/train"}
    assert len(corpus.describe()["dataset"]["files"]) == 2


def test_a_split_of_several_is_named(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    parts = {"train": ROWS[:1], "test": ROWS[1:]}
    datasets.DatasetDict(
        {name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}
    ).save_to_disk(path)
    found = DatasetCorpus(dataset=str(path), split="test").documents()
    assert [one.content for one in found] == list(TEXTS[1:])
    with pytest.raises(CorpusError, match="with a split 'dev'; found no split dev"):
        list(DatasetCorpus(dataset=str(path), split="dev").documents())


def test_rows_that_were_selected_are_those_that_are_read(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).select([3, 1]).save_to_disk(tmp_path / "saved")
    found = DatasetCorpus(dataset=str(tmp_path / "saved")).documents()
    assert [one.content for one in found] == [TEXTS[3], TEXTS[1]]


def test_conversations_and_token_ids_of_a_dataset(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]
    path = save(tmp_path / "saved", [{"chat": chat, "ids": [1, 2, 3]}])
    [one] = DatasetCorpus(dataset=str(path), messages_field="chat").documents()
    assert one.content.messages == chat  # type: ignore[union-attr]
    [one] = DatasetCorpus(dataset=str(path), input_ids_field="ids").documents()
    assert np.asarray(one.content).tolist() == [1, 2, 3]


def test_a_store_of_a_dataset_knows_it(tmp_path: Path) -> None:
    path = save(tmp_path / "saved")
    config = build_config(tmp_path, corpus=DatasetCorpus(dataset=str(path), id_field="id"))
    store = build(config, FakeTeacher()).store
    assert verify(store.root).is_sound
    assert {one for window in store for one in window.document_ids} == {
        f"d{number}" for number in range(len(TEXTS))
    }
    other = save(tmp_path / "other" / "saved", ROWS[1:])
    config = build_config(tmp_path, corpus=DatasetCorpus(dataset=str(other), id_field="id"))
    with pytest.raises(IdentityError, match=r"field corpus.dataset.files\[0\]"):
        build(config, FakeTeacher())


def test_what_is_wrong_with_a_dataset_is_said(tmp_path: Path) -> None:
    path = save(tmp_path / "saved")
    with pytest.raises(CorpusError, match=r"a column 'body'; found columns \['text'"):
        list(DatasetCorpus(dataset=str(path), text_field="body").documents())
    with pytest.raises(CorpusError, match=r"saved/train, row 0: .* found a int there"):
        list(DatasetCorpus(dataset=str(path), text_field="n").documents())
    told: list[CorpusError] = []
    assert list(DatasetCorpus(dataset=str(path), text_field="n").documents(told.append)) == []
    assert len(told) == len(ROWS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"that save_to_disk wrote.* found neither"):
        DatasetCorpus(dataset=str(tmp_path / "empty")).describe()


@pytest.mark.parametrize("wrong", ["", "https://me:hunter22@host/a"])
def test_a_dataset_is_no_url(wrong: str) -> None:
    with pytest.raises(CorpusError, match="expected a directory that save_to_disk wrote") as caught:
        list(DatasetCorpus(dataset=wrong).documents())
    assert "hunter22" not in str(caught.value)


def test_without_network_a_hub_id_is_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CorpusError, match=r"--dataset org/name: .* without network, pass a dir"):
        DatasetCorpus(dataset="org/name").describe()


READ_ALL = """
import json
from softtargets.capture import DatasetCorpus
corpus = DatasetCorpus(dataset="org/name", split="test", id_field="id", metadata_fields=("n",))
documents = [(one.content, one.document_id, one.source, one.metadata) for one in corpus.documents()]
print(json.dumps([corpus.describe(), documents]))
"""


@pytest.mark.slow
def test_a_dataset_of_the_hub_is_streamed_at_one_commit(tmp_path: Path) -> None:
    """By the real client, in a process of its own: it reads where the Hub is when imported."""
    lines = [json.dumps(row).encode() + b"\n" for row in ROWS]
    files = {"train.jsonl": lines[0], "test.jsonl": b"".join(lines[1:])}
    with serve_dataset("org/name", files) as endpoint:
        settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", READ_ALL],
            env=os.environ | settings,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    described, documents = json.loads(done.stdout)
    assert described["dataset"] == {
        "split": "test", "id": "org/name", "config": None, "revision": COMMIT,
    }  # fmt: skip
    assert documents == [
        [row["text"], row["id"], "org/name/test", {"n": str(row["n"])}] for row in ROWS[1:]
    ]
