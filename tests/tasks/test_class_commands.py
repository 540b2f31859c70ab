"""Every command on stores of classes, and what is refused with one paragraph."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset

from softtargets.report.number_texts import percent_text
from softtargets.store import Store
from softtargets.tasks.classification.classifier import SequenceClassifier
from tests.commands import run
from tests.tasks.classifiers import TEXTS, labelled_records, save_classifier, write_records
from tests.test_documents import code_blocks, run_block


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def built(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a store, of its half, and of the corpus."""
    directory = tmp_path_factory.mktemp("built")
    records = labelled_records()
    for name, own in (("store", records), ("half", records[::2])):
        corpus = write_records(directory / f"{name}.jsonl", own)
        assert run(*arguments(teacher, corpus, directory / name)).exit_code == 0
    return directory


def arguments(teacher: Path, corpus: Path, output: Path, *more: str) -> list[str | Path]:
    return [
        "build", "--teacher", teacher, "--input", corpus, "--output", output, "--dtype", "float32",
        "--label-field", "kind", "--window", "truncate", "--sequence-length", "12",
        "--unit-tokens", "20", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_the_task_and_the_store_follow_from_the_model(built: Path) -> None:
    store = Store.open(built / "store")
    assert store.targets.class_names == ("question", "answer", "remark")
    assert store.manifest.format_version == "1.4"
    assert store.manifest.identity["classification"] == {"label_field": "kind"}
    assert store.manifest.corpus["truncated_tokens"] == 6
    assert [window.labels_T.tolist() for window in store] == [[0], [1], [-1], [0], [1], [-1], [0]]


COMMANDS: dict[str, tuple[list[str], str]] = {
    "verify": (["verify", "store"], "is sound"),
    "rescore": (["verify", "store", "--rescore", "4", "--teacher", "TEACHER"], "agrees with"),
    "info": (["info", "store", "--detail"], "question, answer, remark"),
    "inspect": (["inspect", "store"], "remark"),
    "json": (["inspect", "store", "--json"], '"token": "question"'),
    "report": (["report", "store", "--output", "OUT/page.html"], "page.html"),
    "merge": (["merge", "store", "half", "--output", "OUT/merged"], ""),
    "split": (
        ["split", "store", "--train", "OUT/a", "--validation", "OUT/b", "--fraction", "0.4"], ""
    ),
    "filter": (["filter", "store", "--output", "OUT/one", "--source", "store.jsonl"], ""),
    "card": (["card", "store"], ""),
    "export": (["export", "store", "OUT/plain.parquet", "--to", "plain"], ""),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command: str, built: Path, teacher: Path, tmp_path: Path) -> None:
    words, said = COMMANDS[command]
    names = {"store": built / "store", "half": built / "half", "TEACHER": teacher}
    found = run(*(str(names.get(word, word)).replace("OUT", str(tmp_path)) for word in words))
    assert found.exit_code == 0, found.output
    assert said in found.output
    for made in tmp_path.glob("*/manifest.json"):
        assert run("verify", made.parent).exit_code == 0


def test_plan_says_what_a_build_takes(teacher: Path, built: Path, tmp_path: Path) -> None:
    words = arguments(teacher, built / "store.jsonl", tmp_path / "none")
    found = run("plan", *words[1:], "--json")
    assert found.exit_code == 0, found.output
    planned = json.loads(found.output)
    assert planned["fingerprint"] == Store.open(built / "store").fingerprint
    assert planned["num_targets"] == len(TEXTS)
    assert run("plan", *words[1:]).exit_code == 0
    assert not (tmp_path / "none").exists()


def test_the_report_shows_confusions_and_what_the_teacher_is_least_sure_of(
    built: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    assert run("report", built / "store", "--output", page).exit_code == 0
    text = page.read_text()
    assert "Examples that the teacher is least sure of" in text
    assert "Classes, on the targets that have a label" in text
    assert "top-1 agreement" in text
    labelled = [window for window in Store.open(built / "store") if window.labels_T[0] >= 0]
    answers = [window.packed.cells["class_logits"].argmax() for window in labelled]
    right = [window.labels_T[0] for window in labelled]
    assert answers != right
    share = sum(map(int.__eq__, map(int, answers), map(int, right))) / len(right)
    assert percent_text(share) in text
    assert "Confusions, the most frequent first" in text


def test_a_budget_means_nothing_where_all_logits_are_kept(teacher: Path, built: Path) -> None:
    words = arguments(teacher, built / "store.jsonl", built / "none")
    found = run("plan", *words[1:], "--budget-bytes-per-token", "20")
    assert found.exit_code == 1
    assert "--budget-bytes-per-token: expected an option that the task classif" in found.output


def test_datasets_loads_it(built: Path, tmp_path: Path) -> None:
    files = str(built / "store" / "shards" / "*.parquet")
    rows = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert len(rows) == len(TEXTS)
    assert all(len(row["class_logits"]) == 3 for row in rows)


KINDS: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]] = {
    "pairs": (
        "BertForSequenceClassification", {},
        [{"text": text, "other": "it is", "kind": 1} for text in TEXTS],
    ),
    "words": (
        "BertForTokenClassification", {},
        [{"text": text.split(), "kind": [2] * len(text.split())} for text in TEXTS],
    ),
    "many labels": (
        "BertForSequenceClassification", {"problem_type": "multi_label_classification"},
        [{"text": text, "kind": ["answer"]} for text in TEXTS],
    ),
    "scores": (
        "BertForSequenceClassification", {"id2label": {0: "score"}, "label2id": {"score": 0}},
        [{"text": text, "kind": place / 2} for place, text in enumerate(TEXTS)],
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_are_built_compared_and_shown(kind: str, tmp_path: Path) -> None:
    architecture, changes, records = KINDS[kind]
    teacher = save_classifier(tmp_path / "teacher", architecture, **changes)
    corpus = write_records(tmp_path / "corpus.jsonl", records)
    more = ["--text-pair-field", "other"] if kind == "pairs" else ["--dtype", "bfloat16"]
    store = tmp_path / "store"
    assert run(*arguments(teacher, corpus, store, *more)).exit_code == 0
    found = run("verify", store, "--rescore", "4", "--teacher", teacher)
    assert found.exit_code == 0, found.output
    assert "agrees with" in found.output
    assert run("inspect", store).exit_code == 0
    assert run("report", store, "--output", tmp_path / "page.html").exit_code == 0
    text = (tmp_path / "page.html").read_text()
    assert ("Scores of the teacher" in text) == (kind == "scores")
    assert ("Labels that do not exclude each other" in text) == (kind == "many labels")
    assert ("Classes, on the targets" in text) == (kind in ("pairs", "words"))
    if kind == "pairs":
        types = [window.token_types_L for window in Store.open(store)]
        assert all(one is not None and set(one.tolist()) == {0, 1} for one in types)


def test_another_teacher_does_not_agree(teacher: Path, built: Path, tmp_path: Path) -> None:
    other = save_classifier(tmp_path / "other", initializer_range=0.4)
    found = run("verify", built / "store", "--rescore", "4", "--teacher", other)
    assert found.exit_code == 1
    assert "Pass the very teacher that the store was built from" in found.output


def test_logits_of_another_class_do_not_agree_with_the_teacher(
    teacher: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        SequenceClassifier, "_at_targets", lambda _, logits, __: logits[None].roll(1, dims=1)
    )
    found = run("verify", built / "store", "--rescore", "4", "--teacher", teacher)
    assert found.exit_code == 1
    assert "does not agree with the live teacher" in found.output


@pytest.mark.slow
def test_the_code_of_the_page_runs(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "spam-teacher").symlink_to(teacher)
    records = [{"text": one["text"], "label": one["kind"]} for one in labelled_records()]
    write_records(tmp_path / "mails.jsonl", records)
    # The last command takes downloads and minutes.
    build, training, _ = code_blocks("docs/classification.md", "sh")
    run_block("sh", build, tmp_path)
    assert "on labels alone" in run_block("sh", training, tmp_path)
    run_block("python", code_blocks("docs/classification.md", "python")[0], tmp_path)


def record(**fields: Any) -> list[dict[str, Any]]:
    return [*labelled_records(), fields]


BAD: dict[str, tuple[Callable[[], list[dict[str, Any]]], list[str], str]] = {
    "name": (lambda: record(text="a", kind="no such"), [], "one of the teacher's classes"),
    "number": (lambda: record(text="a", kind=3), [], "from 0 to 2"),
    "truth": (lambda: record(text="a", kind=True), [], "one of the teacher's classes"),
    "empty": (lambda: record(text="  ", kind=1), [], "at least one token"),
    "no text": (lambda: record(kind=1), [], "a string in field 'text'"),
    "long": (
        lambda: record(text="cat " * 23), ["--window", "split", "--sequence-length", "500"],
        "at most 24 tokens",
    ),
    "no pair": (labelled_records, ["--text-pair-field", "other"], "the second text"),
    "no label": (lambda: [{"text": "a cat"}], [], "a label in field 'kind' of some record"),
    "select": (labelled_records, ["--select", "topk"], "--select"),
    "top-k": (labelled_records, ["--top-k", "4"], "--top-k"),
    "temperature": (labelled_records, ["--temperature", "2"], "--temperature"),
    "temperature 1": (labelled_records, ["--temperature", "1"], "--temperature"),
    "hidden": (labelled_records, ["--hidden-states", "0,3"], "--hidden-states"),
    "pack": (labelled_records, ["--window", "pack"], "--window pack"),
    "messages": (labelled_records, ["--messages-field", "text"], "--messages-field"),
    "compile": (labelled_records, ["--compile"], "--compile"),
    "values": (labelled_records, ["--values", "float32"], "--values"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_with_one_paragraph_and_nothing_is_written(
    what: str, teacher: Path, tmp_path: Path
) -> None:
    records, more, said = BAD[what]
    corpus = write_records(tmp_path / "corpus.jsonl", records())
    found = run(*arguments(teacher, corpus, tmp_path / "store", *more))
    assert found.exit_code == 1, found.output
    message = found.output.splitlines()[-1]
    assert said in found.output
    assert "expected" in message
    assert message.endswith(".")
    assert not (tmp_path / "store").exists()


def test_records_that_are_wrong_are_left_out_if_asked(teacher: Path, tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [{"text": "a", "kind": 7}, {"text": "", "kind": 0}, {"text": 5}]
    corpus = write_records(tmp_path / "corpus.jsonl", [*labelled_records(), *wrong])
    words = arguments(teacher, corpus, tmp_path / "store", "--on-invalid", "skip")
    assert run(*words).exit_code == 0
    store = Store.open(tmp_path / "store")
    assert len(store) == len(TEXTS)
    assert store.manifest.corpus["invalid_documents"] == 3


def test_a_file_that_is_one_text_has_no_second_one(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("the cat walked .")
    words: list[str | Path] = ["build", "--teacher", teacher, "--input"]
    words += [tmp_path / "one.txt", "--output"]
    assert run(*words, tmp_path / "store").exit_code == 0
    [window] = Store.open(tmp_path / "store")
    assert window.label_ids_T is None
    found = run(*words, tmp_path / "other", "--text-pair-field", "other")
    assert found.exit_code == 1
    assert "a second text, as --text-pair-field asks for" in found.output
    assert not (tmp_path / "other").exists()


def test_an_option_of_classification_is_refused_of_other_teachers(
    tiny_teacher: Path, tmp_path: Path
) -> None:
    corpus = write_records(tmp_path / "corpus.jsonl", labelled_records())
    found = run(*arguments(tiny_teacher, corpus, tmp_path / "store"))
    assert found.exit_code == 1
    assert "--label-field: expected an option of the task causal-lm" in found.output
