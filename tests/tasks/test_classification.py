"""Classification: every kind of classifier, from records to a student."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import transformers

from softtargets.capture import BuildConfig, Corpus, Teacher, TeacherConfig
from softtargets.errors import CorpusError
from softtargets.tasks import Task
from softtargets.tasks.classification import Classification
from softtargets.tasks.classification.class_capture import ClassCapture
from softtargets.tasks.classification.classifier import Classifier
from tests.capture.plans import cut_small, plan_files
from tests.tasks.classifiers import TEXTS, class_config, save_classifier, write_records
from tests.tasks.conformance import TaskTests


class ClassificationTests(TaskTests):
    """The suite, of a model of transformers as teacher and as student."""

    architecture: ClassVar[str] = "BertForSequenceClassification"
    changes: ClassVar[dict[str, Any]] = {}

    directory: ClassVar[Path]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def saved(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        directory = tmp_path_factory.mktemp("model")
        cls.directory = save_classifier(directory, cls.architecture, **cls.changes)

    def task(self) -> Task:
        return Classification()

    def config(self, directory: Path) -> BuildConfig:
        return class_config(directory)

    def teacher(self) -> Classifier:
        config = TeacherConfig(name=str(self.directory), dtype="float32", device="cpu")
        return ClassCapture().teacher(config)

    def student(self, teacher: Teacher) -> torch.nn.Module:
        model: torch.nn.Module = getattr(transformers, self.architecture).from_pretrained(
            self.directory
        )
        return model.eval()


class TestBert(ClassificationTests):
    pass


class TestDistilBert(ClassificationTests):
    architecture = "DistilBertForSequenceClassification"


class TestLlama(ClassificationTests):
    """It looks for the last token that is no padding."""

    architecture = "LlamaForSequenceClassification"

    def config(self, directory: Path) -> BuildConfig:
        config = class_config(directory)
        return replace(config, windowing=replace(config.windowing, sequence_length=60))


class TestPairs(ClassificationTests):
    """Token types tell the two texts apart."""

    def config(self, directory: Path) -> BuildConfig:
        records = [
            {"text": text, "other": TEXTS[place - 1], "kind": place % 3}
            for place, text in enumerate(TEXTS)
        ]
        task = ClassCapture(text_pair_field="other", label_field="kind")
        return class_config(directory, records, task=task)


class TestTokens(ClassificationTests):
    architecture = "BertForTokenClassification"

    def config(self, directory: Path) -> BuildConfig:
        records = [
            {"text": text.split(), "kind": [place % 3 for place in range(len(text.split()))]}
            for text in TEXTS
        ]
        return class_config(directory, records)


class TestTokensWithoutLabels(ClassificationTests):
    """Its last token has a target, and none after it."""

    architecture = "LlamaForTokenClassification"
    refused = ("labels",)

    def config(self, directory: Path) -> BuildConfig:
        config = class_config(directory, task=ClassCapture())
        return replace(config, windowing=replace(config.windowing, sequence_length=60))


class TestManyLabels(ClassificationTests):
    changes: ClassVar = {"problem_type": "multi_label_classification"}

    def config(self, directory: Path) -> BuildConfig:
        labels: tuple[Any, ...] = (["question", "remark"], [0, 1, 0], None, [])
        records = [{"text": text, "kind": labels[place % 4]} for place, text in enumerate(TEXTS)]
        return class_config(directory, records)


class TestScores(ClassificationTests):
    changes: ClassVar = {"id2label": {0: "score"}, "label2id": {"score": 0}}

    def config(self, directory: Path) -> BuildConfig:
        records = [
            {"text": text, "kind": None if place == 2 else place / 3}
            for place, text in enumerate(TEXTS)
        ]
        return class_config(directory, records)


@pytest.mark.parametrize("in_slices", [False, True])
def test_some_text_of_the_corpus_has_a_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_slices: bool
) -> None:
    """Not each slice of it: here a slice is a file."""
    name = str(save_classifier(tmp_path / "model"))
    teacher = ClassCapture().teacher(TeacherConfig(name=name, dtype="float32", device="cpu"))
    if in_slices:
        cut_small(monkeypatch)
    for labels in ((None, "question"), ("question", None), (None, None)):
        paths = tuple(
            write_records(tmp_path / f"{number}.jsonl", [{"text": TEXTS[number], "kind": label}])
            for number, label in enumerate(labels)
        )
        output = tmp_path / f"store-{labels}"
        config = class_config(tmp_path, corpus=Corpus(paths=paths), output=output)
        if any(labels):
            assert plan_files(config, teacher, output)
        else:
            with pytest.raises(CorpusError, match="a label in field 'kind' of some record; foun"):
                plan_files(config, teacher, output)
