"""What is checked of a model that classifies, and of labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softtargets.capture import TeacherConfig, Windowing, build
from softtargets.errors import CorpusError, TeacherError
from softtargets.tasks.classification.class_capture import ClassCapture
from softtargets.tasks.classification.class_labels import ClassLabels
from softtargets.tasks.classification.classifier import Classifier
from tests.tasks.classifiers import NUM_POSITIONS, class_config, save_classifier


def classifier(directory: Path, dtype: Any = "float32") -> Classifier:
    config = TeacherConfig(name=str(directory), dtype=dtype, device="cpu")
    return ClassCapture().teacher(config)


def test_a_model_that_looks_for_its_last_token_needs_a_padding_token(tmp_path: Path) -> None:
    save_classifier(tmp_path, "LlamaForSequenceClassification", pad_token_id=None)
    with pytest.raises(TeacherError, match=r"needs pad_token_id in its config\.json"):
        classifier(tmp_path).load()


def test_padding_that_moves_logits_is_seen(tmp_path: Path) -> None:
    teacher = classifier(save_classifier(tmp_path, "LlamaForSequenceClassification"))
    teacher.__dict__["pad_token_id"] = 9
    with pytest.raises(TeacherError, match="logits that padding after a text does not move"):
        teacher.load()


@pytest.mark.parametrize(
    ("architecture", "names", "match"),
    [
        ("BertForSequenceClassification", {0: "a", 1: "a"}, "a name for each class, all of them"),
        ("BertForTokenClassification", {0: "a"}, "one class, which is always right"),
    ],
)
def test_classes_that_tell_nothing_apart_are_refused(
    architecture: str, names: dict[int, str], match: str, tmp_path: Path
) -> None:
    save_classifier(tmp_path, architecture, id2label=names, label2id=None)
    with pytest.raises(TeacherError, match=match):
        classifier(tmp_path)


def test_a_model_that_counts_positions_after_its_padding_token_reads_fewer(tmp_path: Path) -> None:
    save_classifier(tmp_path / "model", "RobertaForSequenceClassification", pad_token_id=0)
    teacher = classifier(tmp_path / "model")
    assert teacher.tokenizer.most_tokens(1000) == NUM_POSITIONS - 1
    assert teacher.tokenizer.most_tokens(5) == 5
    config = class_config(
        tmp_path,
        [{"text": "cat " * 50}],
        task=ClassCapture(),
        windowing=Windowing(kind="truncate"),
    )
    [window] = build(config, teacher).store
    assert len(window) == NUM_POSITIONS - 1
    assert window.input_ids_L[-1] == 3  # What ends a text stays.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_texts_of_a_batch_do_not_change_each_other(tmp_path: Path, dtype: str) -> None:
    """Numbers differ by rounding alone, however long the others are."""
    teacher = classifier(save_classifier(tmp_path), dtype)
    teacher.load()
    texts = [torch.arange(4, 4 + length) for length in (3, 11, 6)]
    with torch.inference_mode():
        together = teacher._logits(texts).float()
        alone = torch.cat([teacher._logits([one]) for one in texts]).float()
    tolerance = 1e-5 if dtype == "float32" else 0.1
    torch.testing.assert_close(together, alone, rtol=tolerance, atol=tolerance)
    assert (together[0] - together[1]).abs().max() > 0.2


def test_a_batch_in_16_bits_is_padded_to_few_lengths(tmp_path: Path) -> None:
    teacher = classifier(save_classifier(tmp_path), "bfloat16")
    teacher.load()
    shapes: list[torch.Size] = []
    embedding: torch.nn.Module = teacher._model.get_input_embeddings()
    embedding.register_forward_pre_hook(lambda _, read: shapes.append(read[0].shape))
    build(class_config(tmp_path), teacher)
    assert {length for _, length in shapes} == {8, 16}


ONE = ClassLabels(names=("no", "yes"), problem=None)
MANY = ClassLabels(names=("a", "b", "c"), problem="multi_label")
SCORE = ClassLabels(names=("score",), problem="regression")
SCORES = ClassLabels(names=("x", "y"), problem="regression")


@pytest.mark.parametrize(("label", "number"), [("no", 0), ("yes", 1), (0, 0), (1, 1), (None, -1)])
def test_a_class_is_named_or_numbered(label: Any, number: int) -> None:
    assert ONE.number(label, "here") == number


@pytest.mark.parametrize("label", ["maybe", "1", 2, -1, True, 1.0, ["yes"], {"yes": 1}])
def test_no_other_class_is_taken(label: Any) -> None:
    with pytest.raises(CorpusError, match=r"here, its label: expected one of .* \(no, yes\)"):
        ONE.number(label, "here")


@pytest.mark.parametrize(
    ("labels", "label", "values"),
    [
        (MANY, ["c", "a"], [1, 0, 1]),
        (MANY, [], [0, 0, 0]),
        (MANY, [0, 1, 0], [0, 1, 0]),
        (MANY, [0.0, True, 1], [0, 1, 1]),
        (MANY, None, [np.nan] * 3),
        (SCORE, 2.5, [2.5]),
        (SCORE, [3], [3]),
        (SCORE, None, [np.nan]),
        (SCORES, [1, -2.0], [1, -2]),
    ],
)
def test_labels_are_numbers_for_each_class(labels: ClassLabels, label: Any, values: Any) -> None:
    found = labels.values(label, "here")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(values, np.float32))


@pytest.mark.parametrize(
    ("labels", "label"),
    [
        (MANY, "a"), (MANY, ["a", "d"]), (MANY, [1, 2]), (MANY, [0, 1, 2]), (MANY, 1),
        (MANY, [0, 1, None]), (SCORE, "2"), (SCORE, True), (SCORE, float("nan")),
        (SCORE, float("inf")), (SCORE, 10**400), (SCORE, [1, 2]), (SCORES, 1.0), (SCORES, [1]),
    ],
)  # fmt: skip
def test_other_labels_are_refused(labels: ClassLabels, label: Any) -> None:
    with pytest.raises(CorpusError, match="here, its label: expected "):
        labels.values(label, "here")


def test_words_have_their_labels_at_their_first_tokens(tmp_path: Path) -> None:
    save_classifier(tmp_path / "model", "BertForTokenClassification")
    records: list[dict[str, Any]] = [
        {"text": ["the", "cats", "walked"], "kind": ["remark", 0, None]},
        {"text": "the dog"},
    ]
    store = build(class_config(tmp_path, records), classifier(tmp_path / "model")).store
    first, second = store
    # [CLS] the cat ##s walk ##ed [SEP]
    assert first.target_positions_T.tolist() == [1, 2, 3, 4, 5]
    assert first.labels_T.tolist() == [2, 0, -1, -1, -1]
    assert second.labels_T.tolist() == [-1, -1]


@pytest.mark.slow
@pytest.mark.parametrize("label", [["remark"], "remark", 3])
def test_labels_that_are_not_one_for_each_word_are_refused(label: Any, tmp_path: Path) -> None:
    save_classifier(tmp_path / "model", "BertForTokenClassification")
    records = [{"text": ["the", "cat"], "kind": label}]
    with pytest.raises(CorpusError, match="a list of 2 labels, one for each word"):
        build(class_config(tmp_path, records), classifier(tmp_path / "model"))
    with pytest.raises(CorpusError, match="a list of words as the text"):
        records = [{"text": "the cat", "kind": label}]
        build(class_config(tmp_path, records), classifier(tmp_path / "model"))
