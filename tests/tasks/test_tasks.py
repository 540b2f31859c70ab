"""The tasks of the package, and how they are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from softtargets.capture import (
    BuildConfig,
    CaptureTask,
    Teacher,
    TeacherConfig,
    TopK,
    Windowing,
)
from softtargets.errors import InputError
from softtargets.targets import NEXT_TOKEN, TOKEN, WINDOW
from softtargets.task_registry import TASKS, task_for
from softtargets.tasks import Task, find_task, task_of
from softtargets.tasks.causal_lm import CausalLM
from tests.fakes import FakeTeacher, build_config
from tests.tasks.conformance import TaskTests
from tests.windows import KINDS


class FakeStudent(torch.nn.Module):
    """The fake teacher, with a head to be trained."""

    def __init__(self, teacher: FakeTeacher) -> None:
        super().__init__()
        self._teacher = teacher
        self.head_VD = torch.nn.Parameter(torch.from_numpy(teacher.output_head().weight_VD))

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self._teacher.hidden_states(input_ids) @ self.head_VD.T)


class TestCausalLM(TaskTests):
    def task(self) -> Task:
        return CausalLM()

    def config(self, directory: Path) -> BuildConfig:
        return build_config(directory, values="float32", selection=TopK(k=8))

    def teacher(self) -> Teacher:
        return FakeTeacher()

    def student(self, teacher: Teacher) -> torch.nn.Module:
        assert isinstance(teacher, FakeTeacher)
        return FakeStudent(teacher)


class TestCausalLMWithOverlap(TestCausalLM):
    """Some targets are masked, and some windows short."""

    def config(self, directory: Path) -> BuildConfig:
        windowing = Windowing(sequence_length=20, overlap=7)
        return build_config(directory, values="float32", windowing=windowing)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_is_found_by_its_name(name: str) -> None:
    assert find_task(name).name == name


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_store_is_of_one_task_at_most(kind: str) -> None:
    schema = KINDS[kind]
    owners = [name for name in TASKS if find_task(name).owns(schema)]
    if schema.num_classes:
        assert owners == ["classification"]
    elif schema.predicts == "next_token":
        assert owners == ["seq2seq" if schema.encoder_input else "causal-lm"]
    elif schema.predicts == "token":
        assert owners == ["masked-lm"]
    else:
        assert owners == []
        with pytest.raises(InputError, match=r"expected those of a task: causal-lm, .*; found "):
            task_of(schema)
    assert [task_of(schema).name for _ in owners] == owners


@pytest.mark.slow
def test_a_store_opens_without_its_task() -> None:
    script = """
import sys
import softtargets.store, softtargets.task_registry, softtargets.tasks
assert not {"torch", "softtargets.capture", "softtargets.train"} & set(sys.modules)
softtargets.tasks.find_task("causal-lm")
assert not {"torch", "softtargets.capture", "softtargets.train"} & set(sys.modules)
softtargets.tasks.find_task("causal-lm").student()
assert "softtargets.capture" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("convention", "tokens", "windows", "expected"),
    [(NEXT_TOKEN, 10, 3, 7), (TOKEN, 10, 3, 10), (WINDOW, 10, 3, 3)],
)
def test_a_convention_says_how_many_targets_there_are(
    convention: Any, tokens: int, windows: int, expected: int
) -> None:
    assert convention.num_targets(tokens, windows) == expected


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("LlamaForCausalLM", "causal-lm"),
        ("GPT2LMHeadModel", "causal-lm"),
        ("BertForSequenceClassification", "classification"),
        ("DistilBertForTokenClassification", "classification"),
        ("MarianMTModel", "seq2seq"),
        ("T5ForConditionalGeneration", "seq2seq"),
        ("BartForConditionalGeneration", "seq2seq"),
        ("Gemma3ForConditionalGeneration", "causal-lm"),
        ("Unheard", "causal-lm"),
        (None, "causal-lm"),
    ],
)
def test_an_architecture_tells_the_task(architecture: str | None, name: str) -> None:
    assert task_for(architecture).name == name


@pytest.mark.parametrize("family", ["Bert", "DistilBert", "Roberta"])
def test_an_architecture_tells_masked_models(family: str) -> None:
    assert task_for(f"{family}ForMaskedLM").name == "masked-lm"


def test_a_task_without_a_teacher_says_so() -> None:
    with pytest.raises(InputError, match="a task that has a teacher"):
        CaptureTask.teacher(CausalLM().capture(), TeacherConfig(name="somewhere"))
