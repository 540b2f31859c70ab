"""A teacher over CPU and disk answers as one in memory does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from softtargets.capture import Hybrid, TeacherConfig, TransformersTeacher, build
from softtargets.capture.keep.selection import Keep
from softtargets.capture.segments import segments_of
from softtargets.errors import InputError, TeacherError
from tests.capture.teacher_suite import assert_same, windows
from tests.capture.test_teachers import TestTransformersTeacher as Suite
from tests.fakes import build_config

BODY = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
MAPS = {
    "a layer and the head": BODY | {"model.layers": "disk", "lm_head": "disk"},
    "a layer": BODY | {"model.layers.0": "cpu", "model.layers.1": "disk", "lm_head": "cpu"},
    "the body": {"model": "disk", "lm_head": "cpu"},
    "the head": {"model": "cpu", "lm_head": "disk"},
    "everything": {"": "disk"},
}


def make(directory: Path, device_map: Any = None, **options: Any) -> TransformersTeacher:
    text = device_map if isinstance(device_map, str | None) else json.dumps(device_map)
    given = {"dtype": "float32", "device_map": text} | options
    return TransformersTeacher(TeacherConfig(name=str(directory), **given))


@pytest.mark.slow
class TestOnDisk(Suite):
    """Everything that a teacher promises, when every layer is brought from disk."""

    def make(self, directory: Path) -> TransformersTeacher:
        return make(self.saved, MAPS["everything"])


@pytest.mark.slow
@pytest.mark.parametrize("placed", MAPS)
def test_what_is_on_disk_changes_no_bit(tiny_teacher: Path, placed: str) -> None:
    whole, spread = make(tiny_teacher, device="cpu"), make(tiny_teacher, MAPS[placed])
    whole.load()
    spread.load()
    weights = dict(spread._model.named_parameters())
    assert any(weight.is_meta for weight in weights.values())
    keep = Keep(selection=Hybrid(k=4), temperatures=(1.0, 2.0), hidden_states=True)
    segments = segments_of(*windows(whole))
    for _ in range(2):
        assert_same(whole.capture(segments, keep), spread.capture(segments, keep))
    assert whole.describe() == spread.describe()


def test_a_body_keeps_what_brings_its_weights(tiny_teacher: Path) -> None:
    teacher = make(tiny_teacher, MAPS["the body"])
    teacher.load()
    own = vars(teacher._body)["forward"]
    teacher.logits(torch.zeros((1, 32)))
    assert vars(teacher._body)["forward"] is own


@pytest.mark.slow
def test_auto_takes_what_there_is(tiny_teacher: Path, tmp_path: Path) -> None:
    config = build_config(tmp_path, hidden_states=True)
    auto = build(config, make(tiny_teacher, "auto")).store
    (tmp_path / "one").mkdir()
    whole = build(build_config(tmp_path / "one", hidden_states=True), make(tiny_teacher)).store
    assert auto.fingerprint == whole.fingerprint


@pytest.mark.parametrize(
    ("device_map", "options", "message"),
    [
        ("automatic", {}, "--device-map: expected auto, or a JSON object"),
        ("[1]", {}, "--device-map: expected auto, or a JSON object"),
        ('{"model": null}', {}, "--device-map: expected auto, or a JSON object"),
        ('{"": 99}', {}, "--device-map: expected a device that PyTorch finds here"),
        ('{"": "abc"}', {}, "--device-map: expected auto, cpu"),
        ("auto", {"device": "cpu"}, "--device: expected nothing of it beside --device-map"),
        ("auto", {"compile": True}, "--compile: expected nothing of it beside --device-map"),
        (None, {"offload_folder": "x"}, "--offload-folder: expected --device-map"),
    ],
)
def test_what_excludes_each_other_is_refused(
    tiny_teacher: Path, device_map: str | None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make(tiny_teacher, device_map, **options)


def test_a_map_that_does_not_fit_the_model_is_refused(tiny_teacher: Path) -> None:
    with pytest.raises(TeacherError, match="found The device_map provided does not give any devi"):
        make(tiny_teacher, {"model.layers": "disk"}).load()
    with pytest.raises(InputError, match="such as model, lm_head; found modle"):
        make(tiny_teacher, {"": "cpu", "modle": "cpu"}).load()


def test_weights_on_disk_are_not_stored(tiny_teacher: Path, tmp_path: Path) -> None:
    teacher = make(tiny_teacher, MAPS["the head"])
    with pytest.raises(TeacherError, match=r"expected weights that stay .* lm_head.weight among"):
        build(build_config(tmp_path, hidden_states=True), teacher)
    with pytest.raises(TeacherError, match="for layers that are stored"):
        build(build_config(tmp_path, rerun_layers=(0,)), teacher)


def test_workers_have_folders_of_their_own(tiny_teacher: Path) -> None:
    teacher = make(tiny_teacher, "auto", offload_folder="away")
    folders = [teacher.for_worker(one).config.offload_folder for one in range(2)]
    assert folders == ["away/worker-0", "away/worker-1"]
    assert isinstance(teacher.device, torch.device)
