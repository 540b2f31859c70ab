"""Records of a corpus that are token ids or conversations, and their metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softtargets.capture import Corpus
from softtargets.capture.documents import Conversation
from softtargets.errors import CorpusError, InputError


def write_records(path: Path, records: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_token_ids(tmp_path: Path, suffix: str) -> None:
    records: list[dict[str, Any]] = [{"ids": [3, 1, 2]}, {"ids": []}]
    path = write_records(tmp_path / f"a{suffix}", records)
    found = list(Corpus(paths=(path,), input_ids_field="ids").documents())
    assert [np.asarray(one.content).tolist() for one in found] == [[3, 1, 2], []]
    assert all(one.content.dtype == np.int32 for one in found)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("12", r"expected a list of token ids in field 'ids'; found a str there"),
        ([1, "x"], "found other things than whole numbers"),
        ([1.5], "found other things than whole numbers"),
        ([[1], [2]], "found other things than whole numbers"),
        ([True, False], "found other things than whole numbers"),
        ([0, -1], "found numbers from -1 to 0"),
        ([1 << 31], "found numbers from 2147483648 to"),
    ],
)
def test_what_are_no_token_ids_is_named(tmp_path: Path, ids: Any, message: str) -> None:
    path = write_records(tmp_path / "a.jsonl", [{"ids": ids}])
    with pytest.raises(CorpusError, match=message):
        list(Corpus(paths=(path,), input_ids_field="ids").documents())


CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
CALL = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": None, "tool_calls": [{"name": "get", "arguments": {"a": 1}}]},
    {"role": "tool", "content": "sun"},
]
TOOLS = [{"name": "get", "parameters": {"a": {"type": "integer"}}}]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_conversations_and_tools_are_taken_as_they_are(tmp_path: Path, suffix: str) -> None:
    """Columns give every message every key; nulls that only come from that are taken away."""
    records: list[dict[str, Any]] = [
        {"chat": CALL, "tools": json.dumps(TOOLS)},
        {"chat": CHAT, "tools": None},
    ]
    path = write_records(tmp_path / f"a{suffix}", records)
    corpus = Corpus(paths=(path,), messages_field="chat", tools_field="tools")
    one, other = (document.content for document in corpus.documents())
    assert isinstance(one, Conversation)
    assert isinstance(other, Conversation)
    assert (one.messages, one.tools) == (CALL, TOOLS)
    assert (other.messages, other.tools) == (CHAT, None)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"chat": []}, "expected a list of messages in field 'chat'; found none"),
        ({"chat": {"role": "user"}}, "found dict there"),
        ({"chat": "no JSON"}, "found a string that is no JSON"),
        ({"chat": [{"role": "user"}, {"content": "x"}]}, "line 1, message 1: .* without a role"),
        ({"chat": CHAT, "tools": {"name": "get"}}, "found a dict in field 'tools'"),
    ],
)
def test_what_is_no_conversation_is_named(
    tmp_path: Path, record: dict[str, Any], message: str
) -> None:
    path = write_records(tmp_path / "a.jsonl", [record])
    corpus = Corpus(paths=(path,), messages_field="chat", tools_field="tools")
    with pytest.raises(CorpusError, match=message):
        list(corpus.documents())


def test_metadata_is_text(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"text": "a", "url": "u", "year": 2020},
        {"text": "b", "url": None},
    ]
    path = write_records(tmp_path / "a.jsonl", records)
    documents = Corpus(paths=(path,), metadata_fields=("url", "year")).documents()
    assert [one.metadata for one in documents] == [
        {"url": "u", "year": "2020"}, {"url": "", "year": ""},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"messages_field": "m", "input_ids_field": "i"}, "expected one of them; found both"),
        ({"tools_field": "t"}, "--tools-field: expected --messages-field beside it"),
        ({"chat_template": "t"}, "--chat-template: expected --messages-field beside it"),
        ({"metadata_fields": ("a", "a")}, "--metadata-field: expected names that differ"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Corpus(paths=(), **options)
