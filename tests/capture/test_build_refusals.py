"""Builds that are refused, and what they leave as it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from softtargets.capture import Corpus, Sampled, TopK, Windowing, build
from softtargets.errors import CorpusError, FormatError, IdentityError, InputError, StoreError
from softtargets.store import verify
from tests.capture.test_resume import StopError, stop_after
from tests.fakes import FakeTeacher, build_config, build_store, shard_bytes, write_corpus

CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("selection.k", {"selection": TopK(k=9)}),
    ("selection.kind", {"selection": Sampled()}),
    ("targets.temperatures", {"temperatures": (1.0, 4.0)}),
    ("targets.head.values", {"values": "float32"}),
    ("windowing.sequence_length", {"windowing": Windowing(sequence_length=17)}),
    ("unit_tokens", {"unit_tokens": 101}),
    ("compression", {"compression": "lz4"}),
]


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(("field", "changes"), CHANGES)
def test_another_identity_is_refused_and_named(
    tmp_path: Path, field: str, changes: dict[str, Any], finished: bool
) -> None:
    config = build_config(tmp_path)
    if finished:
        build(config, FakeTeacher())
    else:
        with pytest.raises(StopError):
            build(config, FakeTeacher(), stop_after(12))
    before = shard_bytes(config.output)
    with pytest.raises(IdentityError, match=rf"store, field {field}"):
        build(dataclasses.replace(config, **changes), FakeTeacher())
    assert shard_bytes(config.output) == before


def test_another_teacher_or_corpus_is_refused(tmp_path: Path) -> None:
    config = build_config(tmp_path)
    build(config, FakeTeacher())
    with pytest.raises(IdentityError, match=r"field teacher.weights_sha256"):
        build(config, FakeTeacher(seed=1))
    write_corpus(tmp_path / "corpus.jsonl", ["another text", "and one more"])
    with pytest.raises(IdentityError, match=r"field corpus.files\[0\].num_bytes"):
        build(config, FakeTeacher())


def test_a_directory_with_something_else_is_not_touched(tmp_path: Path) -> None:
    config = build_config(tmp_path)
    config.output.mkdir()
    (config.output / "thesis.tex").write_text("ten years of work")
    with pytest.raises(StoreError, match=r"found 1 other entries, among them 'thesis.tex'"):
        build(config, FakeTeacher())
    assert [path.name for path in config.output.iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="a directory, or nothing yet; found a file"):
        build(dataclasses.replace(config, output=tmp_path / "file"), FakeTeacher())
    with pytest.raises(StoreError, match="the directory cannot be reached: Not a directory"):
        build(dataclasses.replace(config, output=tmp_path / "file" / "store"), FakeTeacher())


def test_a_manifest_of_another_version_is_not_touched(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    path = store.root / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": "9.0"}))
    with pytest.raises(FormatError, match=r"format_version 1.x; found '9.0'"):
        build(build_config(tmp_path), FakeTeacher())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection": TopK(k=301)}, "--top-k: .* vocabulary size, 300; found 301"),
        ({"temperatures": (0.0,)}, "--temperature"),
        ({"unit_tokens": 0}, "--unit-tokens"),
        ({"batch_tokens": 0}, "--batch-tokens"),
    ],
)
def test_options_out_of_range_cost_nothing(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build(build_config(tmp_path, **changes), FakeTeacher())
    assert not (tmp_path / "store").exists()


def test_bad_input_is_found_before_the_teacher_is_loaded(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "bad.jsonl")
    path.write_text(path.read_text() + "{\n")
    config = build_config(tmp_path, corpus=Corpus(paths=(path,)))
    teacher = FakeTeacher()
    with pytest.raises(CorpusError, match=r"bad.jsonl, line 6"):
        build(config, teacher)
    assert teacher.num_loads == 0
    # Nothing was done yet, so the mended file may take the directory.
    write_corpus(path)
    build(config, teacher)
    assert verify(config.output).is_sound


def test_an_empty_corpus_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text('{"text": ""}\n{"text": "x"}\n')
    with pytest.raises(CorpusError, match="found 2 documents, none with that many"):
        build(build_config(tmp_path, corpus=Corpus(paths=(path,))), FakeTeacher())
