"""Encoder-decoders: real tiny ones of three families, from pairs to a trained student."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from softtargets.capture import BuildConfig, Teacher
from softtargets.tasks import Task
from softtargets.tasks.seq2seq import Seq2Seq
from tests.tasks.conformance import TaskTests
from tests.tasks.translators import pair_config, save_translator, translator

Save = Callable[[str], Path]


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Return where a model of a family lies; each is written once."""
    return cache(lambda family: save_translator(tmp_path_factory.mktemp(family), family))


class Seq2SeqTests(TaskTests):
    """Of one family."""

    family: str
    directory: Path

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def saved(cls, save: Save) -> None:
        cls.directory = save(cls.family)

    def task(self) -> Task:
        return Seq2Seq()

    def config(self, directory: Path) -> BuildConfig:
        return pair_config(directory)

    def teacher(self) -> Teacher:
        return translator(self.directory)

    def student(self, teacher: Teacher) -> torch.nn.Module:
        student: torch.nn.Module = AutoModelForSeq2SeqLM.from_pretrained(self.directory)
        for name, parameter in student.named_parameters():
            # Sinusoids, which nobody trains.
            if self.family == "Marian" and "embed_positions" in name:
                parameter.requires_grad_(False)
        return student.eval()


def test_a_batch_in_16_bits_is_padded_to_few_lengths(save: Save) -> None:
    texts = [np.arange(3, 3 + length, dtype=np.int32) for length in (2, 9)]
    for dtype, length in (("float32", 9), ("bfloat16", 16)):
        teacher = translator(save("Marian"), dtype)
        teacher.load()
        ids_BL, is_token_BL = teacher.padded(texts)
        assert ids_BL.shape == is_token_BL.shape == (2, length)
        assert is_token_BL.sum(dim=1).tolist() == [2, 9]


class TestMarian(Seq2SeqTests):
    family = "Marian"


class TestBart(Seq2SeqTests):
    family = "Bart"


class TestT5(Seq2SeqTests):
    family = "T5"


del Seq2SeqTests
