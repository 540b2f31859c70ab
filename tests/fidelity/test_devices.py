from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from softtargets.capture import Corpus
from softtargets.fidelity.arms import CE, HIDDEN, arms, compare_students
from softtargets.fidelity.gradients import compare_gradients, find_bias
from softtargets.fidelity.reconstruction import candidates, reconstruct
from softtargets.fidelity.sample import TeacherSample
from softtargets.fidelity.students import Recipe, gradient_difference
from softtargets.window import TokenWindow
from tests.card import DEVICE, card
from tests.fakes import TEXTS, FakeTeacher, build_config, write_corpus

CANDIDATES = ("top 8, uniform", "top 8, label", "8 draws", "top 4 and 4 draws")


class MovedTeacher(FakeTeacher):
    """A fake teacher on a device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def load(self) -> None:
        self._embedding_VD = self._embedding_VD.to(self.device)
        self._head_DV = self._head_DV.to(self.device)

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        read_BLD = self._embedding_VD[input_ids_BL]
        counts_L1 = torch.arange(1, input_ids_BL.shape[1] + 1, device=self.device)[:, None]
        return read_BLD.cumsum(dim=1) / counts_L1.sqrt()

    def output_head(self) -> Any:
        return FakeTeacher(seed=self.seed).output_head()


def windows_of(directory: Path, teacher: FakeTeacher) -> list[TokenWindow]:
    path = write_corpus(directory / "corpus.jsonl", [text[::-1] + text for text in TEXTS])
    config = build_config(directory, corpus=Corpus(paths=(path,)))
    documents = config.corpus.documents()
    return list(config.windowing.windows(documents, teacher.tokenizer, Counter()))


def sample_of(directory: Path, teacher: FakeTeacher) -> TeacherSample:
    teacher.load()
    return TeacherSample.read(teacher, windows_of(directory, teacher))


def reconstructed(sample: TeacherSample) -> list[float]:
    chosen = [one for one in candidates() if one.name in CANDIDATES]
    found = reconstruct(sample, chosen, (2.0,))
    return [number for one in found for number in list(asdict(one).values())[1:]]


def compared_gradients(sample: TeacherSample) -> list[float]:
    chosen = [one for one in candidates() if one.name in CANDIDATES]
    found = compare_gradients(sample, chosen, [len(sample)])
    biases = find_bias(sample, num_redraws=2)
    return [one.difference for one in found] + [one.largest_z for one in biases]


def learned(sample: TeacherSample) -> list[float]:
    compared = list(arms(sample, (), 4))
    losses = {arm.name: arm.loss for arm in compared if callable(arm.loss)}
    recipe = Recipe(steps=2)
    apart = gradient_difference(losses[HIDDEN], losses[CE], sample, recipe)
    measured = compare_students(compared, sample, sample.first_windows(4), recipe, 1)
    return [apart] + [float(number) for one in measured.values() for number in one.mean((0, 1))]


MEASURES = [reconstructed, compared_gradients, learned]


@pytest.mark.slow
@pytest.mark.parametrize("measure", MEASURES)
def test_everything_is_measured_where_the_teacher_is(
    tmp_path: Path, measure: Callable[[TeacherSample], list[float]]
) -> None:
    expected = measure(sample_of(tmp_path, FakeTeacher()))
    with card():
        found = measure(sample_of(tmp_path, MovedTeacher(DEVICE)))
    assert len(found) > 5
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_card_takes_nothing_of_the_cpu() -> None:
    """The negative control."""
    with card():
        here, there = torch.ones(2), torch.ones(2, device=DEVICE)
        assert (there + 1).sum().item() == 4
        assert torch.equal((there * 3).cpu(), 3 * here)
        with pytest.raises(RuntimeError, match="add: tensors of the card and of the CPU"):
            there + here
