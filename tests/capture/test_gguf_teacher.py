"""A model in a GGUF file is a teacher like any other; its fingerprint says what its weights are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from softtargets.capture import Teacher, TeacherConfig, TransformersTeacher, open_teacher
from softtargets.capture.teachers.gguf_model import GgufTeacher
from softtargets.capture.teachers.model_files import hash_model
from softtargets.errors import InputError, TeacherError
from tests.capture.test_teachers import LocalSuite
from tests.tiny_gguf import VOCAB_SIZE, write_gguf


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def make(path: Path) -> Teacher:
    return open_teacher(TeacherConfig(name=f"gguf:{path}", dtype="float32", device="cpu"))


@pytest.mark.slow
class TestGgufTeacher(LocalSuite):
    @pytest.fixture(autouse=True)
    def _written(self, tiny_gguf: Path) -> None:
        self.path = tiny_gguf

    def make(self, directory: Path) -> Teacher:
        return make(self.path)


def test_its_weights_are_those_of_the_file(tiny_gguf: Path) -> None:
    import gguf

    teacher = make(tiny_gguf)
    assert isinstance(teacher, GgufTeacher)
    teacher.load()
    assert teacher.vocab_size == VOCAB_SIZE
    stored = {one.name: one for one in gguf.GGUFReader(tiny_gguf).tensors}["output.weight"]
    head_VD = gguf.quants.dequantize(stored.data, stored.tensor_type)
    np.testing.assert_array_equal(teacher.output_head().weight_VD, head_VD)


def test_a_name_decides_nothing_and_the_types_are_told(tiny_gguf: Path, tmp_path: Path) -> None:
    copied = make(Path(shutil.copy(tiny_gguf, tmp_path / "other.gguf")))
    described = make(tiny_gguf).describe()
    assert described == copied.describe()
    assert described["architecture"] == "LlamaForCausalLM"
    assert described["quantization"] == {"method": "gguf", "types": ["F32", "Q8_0"]}
    another = make(write_gguf(tmp_path / "another.gguf", seed=1)).describe()
    assert another["weights_sha256"] != described["weights_sha256"]


def test_what_is_no_such_file_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"gguf:.*none.gguf: cannot be read: No such file"):
        make(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("text")
    with pytest.raises(TeacherError, match="which begins with GGUF; found one that begins with"):
        make(tmp_path / "text.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_gguf.read_bytes()[:-1000])
    with pytest.raises(TeacherError, match=r"cut\.gguf: expected a GGUF file that is whole"):
        make(cut).describe()
    with pytest.raises(InputError, match="--revision: expected an option that gguf: has a use"):
        open_teacher(TeacherConfig(name=f"gguf:{tiny_gguf}", revision="main"))


def test_how_a_directory_is_quantised_is_told(tiny_teacher: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(tiny_teacher, directory)
    plain = TransformersTeacher(TeacherConfig(name=str(directory), device="cpu")).describe()
    assert "quantization" not in plain
    path = directory / "config.json"
    config = json.loads(path.read_text())
    method = {"quant_method": "gptq", "bits": 4, "group_size": 128, "dataset": "/home/me/c4.json"}
    path.write_text(json.dumps(config | {"quantization_config": method}))
    found = hash_model(directory)["quantization"]
    assert found == {"method": "gptq", "bits": 4, "group_size": 128}
    path.write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    with pytest.raises(TeacherError, match="a quantization_config with its quant_method; found"):
        hash_model(directory)
