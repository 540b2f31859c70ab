"""Rescoring stores of a real teacher: wrong teachers and biased draws are told from noise."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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
from softtargets.store import Store
from softtargets.targets import Float64

pytestmark = pytest.mark.slow

SELECTIONS: tuple[Selection, ...] = (Sampled(), Hybrid(), Threshold())
each_selection = pytest.mark.parametrize("kind", [one.kind for one in SELECTIONS])


@pytest.fixture(scope="module")
def live(smollm2: Path) -> TransformersTeacher:
    teacher = TransformersTeacher(TeacherConfig(name=str(smollm2), dtype="float32"))
    teacher.load()
    return teacher


@pytest.fixture
def altered(live: TransformersTeacher) -> Iterator[TransformersTeacher]:
    """The live teacher under the same identity, with logits that are 3% larger."""
    weight = live._model.model.norm.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(1.03)
        yield live
        weight.copy_(before)


@pytest.fixture(scope="module")
def stores(
    live: TransformersTeacher, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Store]:
    """A store of the live teacher by kind of selection."""
    directory = tmp_path_factory.mktemp("live")
    return {one.kind: build_store(live, one, directory / one.kind) for one in SELECTIONS}


def build_store(teacher: TransformersTeacher, selection: Selection, directory: Path) -> Store:
    """Build two windows of one text."""
    directory.mkdir(exist_ok=True)
    path = directory / "topic.jsonl"
    path.write_text(json.dumps({"text": topics["continue"]}) + "\n")
    config = BuildConfig(
        corpus=Corpus(paths=(path,)),
        output=directory / "store",
        windowing=Windowing(sequence_length=48),
        selection=selection,
        temperatures=(1.0, 2.0),
    )
    return build(config, teacher).store


def compare(store: Store, teacher: TransformersTeacher) -> RescoreReport:
    """Rescore every window."""
    return rescore(store, teacher, 2)


@each_selection
def test_draws_of_the_live_teacher_hold(
    stores: Mapping[str, Store], live: TransformersTeacher, kind: str
) -> None:
    report = compare(stores[kind], live)
    assert report.holds
    assert report.num_positions > 60


@each_selection
def test_a_slightly_different_teacher_is_found_out(
    stores: Mapping[str, Store], altered: TransformersTeacher, kind: str
) -> None:
    assert not compare(stores[kind], altered).holds


def stuck(window_id: str, start: int, num_targets: int, seed: int) -> Float64:
    """Return the same number for every target, as a generator that does not advance gives it."""
    return np.zeros(num_targets)


def test_biased_draws_are_found_out(
    live: TransformersTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All else of the store is the live teacher's, so the draws alone can fail."""
    monkeypatch.setattr(keeper, "starts", stuck)
    at_draws, other = compare(build_store(live, Threshold(), tmp_path), live).temperatures
    assert at_draws.stored.largest < at_draws.bound
    assert not at_draws.holds
    assert other.holds
