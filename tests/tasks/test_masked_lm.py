"""Masked language models: real tiny ones of three families, from texts to a trained student."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM

from softtargets.capture import BuildConfig, Teacher
from softtargets.tasks import Task
from softtargets.tasks.masked_lm import MaskedLM
from tests.tasks.conformance import TaskTests
from tests.tasks.masked import masked_config, masked_teacher, save_masked_model

Save = Callable[[str], Path]


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Return where a model of a family lies; each is written once."""
    return cache(lambda family: save_masked_model(tmp_path_factory.mktemp(family), family))


class MaskedTests(TaskTests):
    """Of one family."""

    refused = ("distilbert",)
    family: str
    directory: Path

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def saved(cls, save: Save) -> None:
        cls.directory = save(cls.family)

    def task(self) -> Task:
        return MaskedLM()

    def config(self, directory: Path) -> BuildConfig:
        return masked_config(directory)

    def teacher(self) -> Teacher:
        return masked_teacher(self.directory)

    def student(self, teacher: Teacher) -> torch.nn.Module:
        student: torch.nn.Module = AutoModelForMaskedLM.from_pretrained(self.directory)
        return student.eval()


class TestBert(MaskedTests):
    family = "Bert"


class TestDistilBert(MaskedTests):
    family = "DistilBert"


class TestRoberta(MaskedTests):
    family = "Roberta"


del MaskedTests
