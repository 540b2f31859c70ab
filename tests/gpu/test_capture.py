from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from softtargets.capture import Hybrid, Sampled, TeacherConfig, TopK, TransformersTeacher, build
from softtargets.capture.keep.sampling import uniforms
from softtargets.capture.keep.selection import Draws, Selection
from softtargets.capture.keep.selector import select
from softtargets.fidelity.sample import TeacherSample
from softtargets.store import Store
from softtargets.store.verification import verify
from tests.fakes import FakeTeacher, build_config
from tests.fidelity.test_devices import MEASURES, MovedTeacher, sample_of
from tests.windows import select_in_numpy

pytestmark = pytest.mark.gpu
GRID = (0.5, 1.0, 2.0)


def build_on(
    device: str, directory: Path, teacher: Path, dtype: Literal["float32", "bfloat16"]
) -> Store:
    directory.mkdir()
    config = build_config(directory, selection=Hybrid(k=8), values="float32")
    own = TransformersTeacher(TeacherConfig(name=str(teacher), dtype=dtype, device=device))
    return build(config, own).store


def test_a_store_is_that_of_the_cpu_up_to_rounding(
    device: str, tmp_path: Path, tiny_teacher: Path
) -> None:
    found = build_on(device, tmp_path / "device", tiny_teacher, "float32")
    expected = build_on("cpu", tmp_path / "cpu", tiny_teacher, "float32")
    assert verify(found).is_sound
    assert len(found) == len(expected) > 10
    for window in found:
        own, other = window.targets, expected[window.window_id].targets
        np.testing.assert_allclose(own.logits_TK, other.logits_TK, atol=1e-3)
        np.testing.assert_allclose(own.tail_mass_TG, other.tail_mass_TG, atol=1e-4)
        # Ids whose logits are nearer than rounding may change places.
        assert (own.ids_TK == other.ids_TK).mean() > 0.99


def test_a_store_of_a_bfloat16_teacher_is_sound(
    device: str, tmp_path: Path, tiny_teacher: Path
) -> None:
    store = build_on(device, tmp_path / "device", tiny_teacher, "bfloat16")
    assert verify(store).is_sound
    assert len(store) > 10


def test_the_top_is_selected_as_in_float64(device: str, rng: np.random.Generator) -> None:
    logits_NV = rng.normal(0, 3, (40, 50_000)).astype(np.float32)
    logits_NV[:, 7:9] = logits_NV[:, 3:4]  # Equal ones go by their ids.
    labels_N = rng.integers(0, 50_000, 40)
    expected = select_in_numpy(logits_NV, labels_N, 64, GRID)
    on_device = torch.from_numpy(logits_NV.copy()).to(device)
    labels = torch.from_numpy(labels_N).to(device)
    found = select(on_device, labels, TopK(k=64), GRID).cpu()
    assert np.array_equal(found.ids_NK.numpy(), expected.ids_TK)
    assert np.array_equal(found.logits_NK.numpy(), expected.logits_TK)
    np.testing.assert_allclose(found.tail_mass_NG.numpy(), expected.tail_mass_TG, rtol=1e-4)
    assert found.label_rank_N is not None
    assert expected.label_rank_T is not None
    assert np.array_equal(found.label_rank_N.numpy(), expected.label_rank_T)


@pytest.mark.parametrize(
    "selection", [Sampled(draws=Draws(num=64)), Hybrid(k=8, draws=Draws(num=64))], ids=str
)
def test_draws_are_those_of_the_cpu(
    device: str, rng: np.random.Generator, selection: Selection
) -> None:
    logits_NV = torch.from_numpy(rng.normal(0, 3, (40, 50_000)).astype(np.float32))
    labels_N = torch.from_numpy(rng.integers(0, 50_000, 40))
    uniforms_ND = torch.from_numpy(uniforms("0" * 32, 0, 40, 64, 0))
    drawn = []
    for place in (device, "cpu"):
        inputs = logits_NV.to(place, copy=True), labels_N.to(place)
        own = select(*inputs, selection, GRID, uniforms_ND=uniforms_ND.to(place)).cpu()
        own.check()
        assert own.drawn_ids_ND is not None
        drawn.append(own.drawn_ids_ND.sort(dim=1).values)
    # Sums in another order move a few draws to a neighbour.
    assert (drawn[0] == drawn[1]).float().mean() > 0.99


@pytest.mark.parametrize("measure", MEASURES)
def test_fidelity_is_measured_on_the_device(
    device: str, tmp_path: Path, measure: Callable[[TeacherSample], list[float]]
) -> None:
    found = measure(sample_of(tmp_path, MovedTeacher(torch.device(device))))
    expected = measure(sample_of(tmp_path, FakeTeacher()))
    # Two steps of Adam turn rounding of small gradients into a percent of a weight's change.
    assert found == pytest.approx(expected, rel=0.05, abs=1e-3)
