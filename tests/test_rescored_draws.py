"""Rescoring stores of a real teacher: wrong teachers and biased draws are told from noise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch

from softtargets.capture import (
    BuildConfig,
    Corpus,
    Hybrid,
    RescoreReport,
    Sampled,
    TeacherConfig,
    Threshold,
    TransformersTeacher,
    Windowing,
    build,
    rescore,
)
from softtargets.capture.keep import keeper
from softtargets.capture.keep.selection import Selection
from softtargets.demo.smollm import teacher_directory
from softtargets.targets import Float64

TOPICS = ("assert", "del")
SELECTIONS: tuple[Selection, ...] = (Sampled(), Hybrid(), Threshold())
Rescored = Callable[[TransformersTeacher, Selection], RescoreReport]


def make_teacher() -> TransformersTeacher:
    teacher = TransformersTeacher(TeacherConfig(name=str(teacher_directory()), dtype="float32"))
    teacher.load()
    return teacher


@pytest.fixture(scope="module")
def live() -> TransformersTeacher:
    return make_teacher()


@pytest.fixture(scope="module")
def altered() -> TransformersTeacher:
    """A teacher with the live one's identity, whose logits are 1% larger."""
    teacher = make_teacher()
    with torch.no_grad():
        teacher._model.model.norm.weight.mul_(1.01)
    return teacher


@pytest.fixture
def rescored(tmp_path: Path, live: TransformersTeacher) -> Rescored:
    """What builds a store of a few hundred targets, and compares it with the live teacher."""
    path = tmp_path / "topics.jsonl"
    path.write_text("".join(json.dumps({"text": topics[name]}) + "\n" for name in TOPICS))

    def build_and_rescore(teacher: TransformersTeacher, selection: Selection) -> RescoreReport:
        config = BuildConfig(
            corpus=Corpus(paths=(path,)),
            output=tmp_path / "store",
            windowing=Windowing(sequence_length=192),
            selection=selection,
            temperatures=(1.0, 2.0),
        )
        return rescore(build(config, teacher).store, live, 20)

    return build_and_rescore


@pytest.mark.slow
@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda one: one.kind)
def test_draws_of_the_live_teacher_hold(
    rescored: Rescored, live: TransformersTeacher, selection: Selection
) -> None:
    report = rescored(live, selection)
    assert report.holds
    assert report.num_positions > 250


@pytest.mark.slow
@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda one: one.kind)
def test_a_store_of_a_slightly_different_teacher_is_found_out(
    rescored: Rescored, altered: TransformersTeacher, selection: Selection
) -> None:
    assert not rescored(altered, selection).holds


def stuck(window_id: str, start: int, num_targets: int, seed: int) -> Float64:
    """Return the same number for every target, as a generator that does not advance gives it."""
    return np.zeros(num_targets)


@pytest.mark.slow
@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda one: one.kind)
def test_biased_draws_are_found_out(
    rescored: Rescored,
    live: TransformersTeacher,
    selection: Selection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All else of the store is the live teacher's, so the draws alone can fail."""
    monkeypatch.setattr(keeper, "starts", stuck)
    at_draws, other = rescored(live, selection).temperatures
    assert at_draws.stored.largest < at_draws.bound
    assert not at_draws.holds
    assert other.holds
