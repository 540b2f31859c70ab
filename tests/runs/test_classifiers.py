"""Classifiers are trained by the same command: texts, tokens, labels of their own, and scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from matplotlib.axes import Axes
from transformers import BertConfig, BertModel

from softtargets.capture import TeacherConfig, build
from softtargets.errors import SoftTargetsError
from softtargets.runs import TrainSettings, prepare, train
from softtargets.runs.evaluation import Evaluation
from softtargets.store import Store
from softtargets.tasks import task_of
from softtargets.tasks.classification.class_capture import ClassCapture
from tests.runs.conftest import short_training
from tests.runs.test_training import StoppedError, same, stop_after, weights_of
from tests.tasks.classifiers import (
    NAMES,
    TEXTS,
    class_config,
    save_classifier,
    word_tokenizer,
)

PAIRS = [f"{one} {other}" for one in TEXTS for other in TEXTS[:4]]
MARKS = (0, "answer", 2, None)
SEQUENCES, TOKENS = "BertForSequenceClassification", "BertForTokenClassification"


def records_of(label: Callable[[int], Any]) -> list[dict[str, Any]]:
    return [{"text": text, "kind": label(place)} for place, text in enumerate(PAIRS)]


KINDS: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]], ClassCapture]] = {
    "one": (
        SEQUENCES, {}, records_of(lambda place: MARKS[place % 4]),
        ClassCapture(label_field="kind"),
    ),
    "many": (
        SEQUENCES, {"problem_type": "multi_label_classification"},
        records_of(lambda place: (["remark"], [0, 1, 1], None)[place % 3]),
        ClassCapture(label_field="kind"),
    ),
    "tokens": (
        TOKENS, {},
        [{"text": one.split(), "kind": [MARKS[len(word) % 4] for word in one.split()]}
         for one in PAIRS],
        ClassCapture(label_field="kind"),
    ),
    "scores": (
        SEQUENCES, {"id2label": {0: "score"}, "label2id": {"score": 0}},
        records_of(lambda place: place / 9 if place % 3 else None),
        ClassCapture(label_field="kind"),
    ),
    "late": (
        SEQUENCES, {}, records_of(lambda place: 1 if place == 0 else None),
        ClassCapture(label_field="kind"),
    ),
    "unlabelled": (SEQUENCES, {}, [{"text": one} for one in PAIRS], ClassCapture()),
    "pairs": (
        SEQUENCES, {}, [{"text": one, "other": one[::-1]} for one in PAIRS],
        ClassCapture(text_pair_field="other"),
    ),
}  # fmt: skip


Built = Callable[[str], tuple[Store, Path]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Return the store and the teacher of a kind; each is made once."""

    def make(kind: str) -> tuple[Store, Path]:
        architecture, changes, records, task = KINDS[kind]
        directory = tmp_path_factory.mktemp(kind)
        model = save_classifier(directory / "teacher", architecture, **changes)
        teacher = task.teacher(TeacherConfig(name=str(model), dtype="float32", device="cpu"))
        return build(class_config(directory, records, task=task), teacher).store, model

    return cache(make)


@pytest.fixture
def settings(built: Built, tmp_path: Path) -> Callable[..., TrainSettings]:
    """Return a training of a kind, with changes."""

    def make(kind: str, **changes: Any) -> TrainSettings:
        defaults = {"student": "teacher[depth=1]", "learning_rate": 3e-3}
        return short_training(*built(kind), tmp_path / "run", **{**defaults, **changes})

    return make


Make = Callable[..., TrainSettings]


@pytest.mark.slow
@pytest.mark.usefixtures("plots")
@pytest.mark.parametrize("kind", ["scores", "unlabelled"])
def test_a_plot_has_the_figures_that_there_are(
    settings: Make, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    own = Axes.set

    def noted(axes: Axes, **options: Any) -> Any:
        titles.append(options["title"])
        return own(axes, **options)

    monkeypatch.setattr(Axes, "set", noted)
    train(prepare(settings(kind, steps=4)))
    assert (tmp_path / "run" / "training.png").read_bytes().startswith(b"\x89PNG")
    figures = {
        "scores": ["squared error to the teacher", "squared error to the labels"],
        "unlabelled": ["KL to the teacher"],
    }
    assert titles == ["training loss", *(f"{one}, held-out" for one in figures[kind])]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("one", ["kl", "agreement", "cross_entropy", "accuracy"]),
        ("many", ["kl", "agreement", "cross_entropy", "accuracy"]),
        ("tokens", ["kl", "agreement", "cross_entropy", "accuracy"]),
        ("scores", ["squared_error", "label_squared_error"]),
        ("unlabelled", ["kl", "agreement"]),
    ],
)
def test_a_student_is_nearer_to_the_teacher_than_its_twin(
    settings: Make, built: Built, tmp_path: Path, kind: str, names: list[str]
) -> None:
    has_twin = kind != "unlabelled"
    run = prepare(settings(kind, steps=40, baseline=has_twin))
    results = train(run).results
    assert all(list(row) == names for row in results.values())
    distance = names[0]
    assert results["after"][distance] < 0.8 * results["before"][distance]
    if has_twin:
        assert results["after"][distance] < results["baseline"][distance]
    card = (tmp_path / "run" / "README.md").read_text()
    what = "Token" if kind == "tokens" else "Sequence"
    auto = f"AutoModelFor{what}Classification"
    assert f"student = {auto}.from_pretrained" in card
    student = getattr(transformers, auto).from_pretrained(tmp_path / "run")
    assert student.config.num_hidden_layers == 1
    own = built(kind)[0].targets
    assert student.config.id2label == dict(enumerate(own.class_names))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one", "many", "tokens", "scores"])
def test_the_teacher_is_as_near_to_itself_as_can_be(settings: Make, kind: str) -> None:
    """So its figures on labels are its own, of the targets whose label is known."""
    run = prepare(settings(kind, student="teacher[depth=2]", steps=1))
    before = train(run).results["before"]
    assert abs(before.get("kl", before.get("squared_error", 1.0))) < 1e-5
    assert before.get("agreement", 1.0) == 1.0
    assert run.evaluation is not None
    expected = own_figures(run.evaluation.store)
    assert expected
    for name, value in expected.items():
        assert before[name] == pytest.approx(value, rel=1e-4)


def own_figures(store: Store) -> dict[str, float]:
    """Return the teacher's figures on the labels that are known, from what is stored."""
    problem, targets = store.targets.problem, list(labelled_targets(store))
    assert 0 < len(targets) < store.num_positions
    if problem == "regression":
        return {"label_squared_error": mean((logits_C - label) ** 2 for logits_C, label in targets)}
    if problem == "multi_label":
        right = (((logits_C > 0) == label).mean() for logits_C, label in targets)
        # log(1 + e^-z) if the label is right, log(1 + e^z) if not.
        losses = (np.log1p(np.exp((1 - 2 * label) * one)).sum() for one, label in targets)
        return {"accuracy": mean(right), "cross_entropy": mean(losses)}
    right = (logits_C.argmax() == label for logits_C, label in targets)
    losses = (np.log(np.exp(one - one[label]).sum()) for one, label in targets)
    return {"accuracy": mean(right), "cross_entropy": mean(losses)}


def labelled_targets(store: Store) -> Iterator[tuple[Any, Any]]:
    """Yield the class logits [C] and the label of each target that has one."""
    for window in store:
        logits_TC = window.packed.cells["class_logits"].reshape(-1, store.targets.num_classes)
        if store.targets.label_values:
            assert window.label_values_F is not None
            values_TC = window.label_values_F.reshape(logits_TC.shape)
            pairs = zip(logits_TC, values_TC, strict=True)
            yield from (pair for pair in pairs if not np.isnan(pair[1]).any())
        else:
            numbers = zip(logits_TC, window.labels_T, strict=True)
            yield from (pair for pair in numbers if pair[1] >= 0)


def mean(values: Iterable[Any]) -> float:
    return float(np.mean(list(values)))


@pytest.mark.slow
def test_a_run_that_is_stopped_ends_with_the_same_weights(settings: Make, tmp_path: Path) -> None:
    whole = train(prepare(settings("one", output=tmp_path / "whole")))
    with pytest.raises(StoppedError):
        train(prepare(settings("one")), stop_after(7))
    assert train(prepare(settings("one"))).results == whole.results
    assert same(weights_of(tmp_path / "run"), weights_of(tmp_path / "whole"))


def save_student(directory: Path, **changes: Any) -> Path:
    tokenizer = word_tokenizer()
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = BertConfig(vocab_size=len(tokenizer), num_attention_heads=1, **{**sizes, **changes})
    BertModel(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.mark.slow
def test_an_encoder_without_classes_gets_those_of_the_store(settings: Make, tmp_path: Path) -> None:
    encoder = save_student(tmp_path / "encoder")
    for student in (encoder, encoder / "config.json"):
        run, again = (prepare(settings("one", student=str(student))) for _ in range(2))
        assert run.student.model.config.id2label == dict(enumerate(NAMES))
        assert run.student.model.config.problem_type == "single_label_classification"
        assert same(run.student.model.state_dict(), again.student.model.state_dict())


def bad_students(directory: Path) -> dict[str, tuple[str, dict[str, Any], str]]:
    """Return kinds of stores, options that do not fit, and what is said of them."""
    narrow = save_classifier(
        directory / "narrow", id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1}
    )
    distil = save_classifier(directory / "distil", "DistilBertForSequenceClassification")
    flat = save_student(directory / "flat", type_vocab_size=1)
    headless = save_student(directory / "headless")
    config = json.loads((headless / "config.json").read_text())
    (headless / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    return {
        "classes": (
            "one", {"student": str(narrow)},
            r"narrow, classifier.bias: expected size \[3\], .*; found \[2\]",
        ),
        "types": (
            "pairs", {"student": str(distil)},
            "token types, .* found DistilBertForSequenceClassification, which does not",
        ),
        "one type": ("pairs", {"student": str(flat)}, "expected a model that reads token types"),
        "layers": ("one", {"student": str(headless)}, "found none for bert.encoder.layer.1"),
        "recipe": (
            "unlabelled", {"recipe": "labels"}, "its labels: expected a store with labels",
        ),
        "twin": ("unlabelled", {"baseline": True}, "its labels: expected a store with labels"),
        "weight": ("unlabelled", {"ce_weight": 0.5}, "its labels: expected a store with labels"),
        "tail": ("one", {"tail": "bucket"}, "the logits of all classes are stored"),
        "cosine": ("one", {"cosine_weight": 1.0}, "its cosine: expected a store with the teacher"),
        "negative": ("one", {"cosine_weight": -1.0}, "cosine_weight: expected a number from 0"),
        "no logits": ("one", {"logits_weight": 0.0}, "logits_weight: expected a positive number"),
        "warm score": ("scores", {"temperature": 2.0}, "scores are no logits of a distribution"),
        "distilbert": ("one", {"recipe": "distilbert"}, "one of 'labels', 'minilm', "),
    }  # fmt: skip


@pytest.mark.slow
def test_what_does_not_fit_is_said_before_anything_is_written(
    settings: Make, tmp_path: Path
) -> None:
    for kind, changes, said in bad_students(tmp_path).values():
        with pytest.raises(SoftTargetsError, match=said) as caught:
            prepare(settings(kind, **changes))
        assert caught.value.next_step
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_figures_on_labels_are_left_out_where_no_label_is_known(built: Built) -> None:
    store, teacher = built("late")
    parts = (store.split(0.2, seed)[1] for seed in range(10))
    held = next(one for one in parts if all(window.labels_T[0] < 0 for window in one))
    student = transformers.AutoModelForSequenceClassification.from_pretrained(teacher)
    evaluation = Evaluation(store=held, task=task_of(held.targets).student())
    found = evaluation.measure(student, torch.device("cpu"), nullcontext())
    assert found.keys() == {"kl", "agreement"}
