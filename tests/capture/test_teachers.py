"""The teachers of the package, and the fake one, keep what every teacher promises."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from softtargets.capture import LocalTeacher, Teacher, TeacherConfig, TransformersTeacher
from tests.capture.teacher_suite import TeacherSuite
from tests.fakes import FakeTeacher


class LocalSuite(TeacherSuite):
    def damage(self, teacher: Teacher) -> None:
        """Let hidden states have one more number, which says where q was read."""
        assert isinstance(teacher, LocalTeacher)
        hidden_states, logits = teacher.hidden_states, teacher.logits
        ((letter_id,),) = teacher.tokenizer.encode_batch(["q"])

        def marked(input_ids_BL: torch.Tensor) -> torch.Tensor:
            is_there_BL1 = (input_ids_BL == letter_id)[..., None].float()
            return torch.cat([hidden_states(input_ids_BL), is_there_BL1], dim=2)

        def damaged(hidden_ND: torch.Tensor) -> torch.Tensor:
            logits_NV = logits(hidden_ND[:, :-1])
            return logits_NV.masked_fill(hidden_ND[:, -1:] > 0, torch.nan)

        teacher.hidden_states = marked  # type: ignore[method-assign]
        teacher.logits = damaged  # type: ignore[method-assign]


class TestFakeTeacher(LocalSuite):
    def make(self, directory: Path) -> Teacher:
        return FakeTeacher()


class TestTransformersTeacher(LocalSuite):
    @pytest.fixture(autouse=True)
    def _saved(self, tiny_teacher: Path) -> None:
        self.saved = tiny_teacher

    def make(self, directory: Path) -> Teacher:
        if not (directory / "model").exists():
            shutil.copytree(self.saved, directory / "model")
        name = str(directory / "model")
        return TransformersTeacher(TeacherConfig(name=name, dtype="float32", device="cpu"))
