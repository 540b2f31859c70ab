"""Plans made in stages: the same bytes as one made at once, and the same said of the corpus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from softtargets.capture import Corpus, DatasetCorpus, Windowing
from softtargets.errors import CorpusError
from tests.capture.conftest import Cut
from tests.capture.plans import files_config, plan_at_once, plan_files
from tests.fakes import TEXTS, FakeTeacher, build_config, write_corpus
from tests.places.test_toy_place import InMemory


@pytest.mark.parametrize(
    "windowing",
    [
        Windowing(sequence_length=16),
        Windowing(sequence_length=16, overlap=5),
        Windowing(sequence_length=16, kind="truncate"),
        Windowing(sequence_length=40, kind="pack"),
        Windowing(sequence_length=40, kind="pack", overlap=7),
    ],
    ids=str,
)
def test_the_plan_is_the_same(tmp_path: Path, cut: Cut, windowing: Windowing) -> None:
    config = files_config(tmp_path, windowing=windowing)
    expected = plan_at_once(config, FakeTeacher(), tmp_path / "once")
    counts = json.loads(expected["work/plan.json"] or b"")["corpus"]
    assert counts["repeated_windows"] > 10
    cut()
    place = InMemory()
    assert plan_files(config, FakeTeacher(), place) == expected
    assert len([path for path in place.files if "slices/mapped-" in path]) == 5 + 6 + 2
    assert len([path for path in place.files if "slices/reduced-" in path]) == 4


def test_conversations_are_planned_the_same(tmp_path: Path, cut: Cut) -> None:
    """Packed, with listed positions and metadata; a target may be any part of a piece."""
    roles = ("user", "assistant", "user", "assistant")
    turns = [
        {"role": role, "content": text[:9]} for role, text in zip(roles, TEXTS[:4], strict=True)
    ]
    talks = [{"m": turns[: 2 + n % 3], "topic": f"topic {n % 4}"} for n in range(12)]
    paths = []
    for name, own in (("a.jsonl", talks), ("b.jsonl", talks[::-1])):
        paths.append(tmp_path / name)
        paths[-1].write_text("".join(json.dumps(talk) + "\n" for talk in own))
    corpus = Corpus(paths=tuple(paths), messages_field="m", metadata_fields=("topic",))
    windowing = Windowing(sequence_length=64, kind="pack", overlap=3)
    config = build_config(tmp_path, corpus=corpus, windowing=windowing)
    expected = plan_at_once(config, FakeTeacher(), tmp_path / "once")
    cut()
    assert plan_files(config, FakeTeacher(), config.output) == expected


def test_a_dataset_is_one_slice(tmp_path: Path, cut: Cut) -> None:
    from datasets import Dataset

    Dataset.from_dict({"text": [*TEXTS, *TEXTS[:2]]}).save_to_disk(str(tmp_path / "saved"))
    config = build_config(tmp_path, corpus=DatasetCorpus(dataset=str(tmp_path / "saved")))
    expected = plan_at_once(config, FakeTeacher(), tmp_path / "once")
    cut()
    assert plan_files(config, FakeTeacher(), config.output) == expected


def test_what_is_left_out_is_told_once(tmp_path: Path, cut: Cut, logged: list[str]) -> None:
    """The first ten of all slices, in the order of the corpus, as when planned at once."""
    paths = []
    for name in ("a.jsonl", "b.jsonl"):
        lines = [
            f'{{"text": "{name} {number}"}}\n' if number % 2 else "{\n" for number in range(16)
        ]
        paths.append(tmp_path / name)
        paths[-1].write_text("".join(lines))
    config = build_config(tmp_path, corpus=Corpus(paths=tuple(paths), on_invalid="skip"))
    expected = plan_at_once(config, FakeTeacher(), tmp_path / "once")
    told = logged.copy()
    assert len(told) == 10
    cut()
    logged.clear()
    assert plan_files(config, FakeTeacher(), config.output) == expected
    assert logged == told


def test_a_wrong_document_stops_planning(tmp_path: Path, cut: Cut) -> None:
    paths = write_corpus(tmp_path / "a.jsonl"), tmp_path / "b.jsonl"
    paths[1].write_text("{")
    config = build_config(tmp_path, corpus=Corpus(paths=paths))
    cut()
    with pytest.raises(CorpusError, match=r"b\.jsonl, line 1: expected a JSON object"):
        plan_files(config, FakeTeacher(), config.output)


def test_a_corpus_without_windows_is_told_of(tmp_path: Path, cut: Cut) -> None:
    path = write_corpus(tmp_path / "a.jsonl", ["a", "", "b"])
    config = build_config(tmp_path, corpus=Corpus(paths=(path,)))
    cut()
    with pytest.raises(CorpusError, match="found 3 documents, none with that many"):
        plan_files(config, FakeTeacher(), config.output)
