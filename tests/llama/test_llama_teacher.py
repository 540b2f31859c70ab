"""A model that llama.cpp runs keeps what every teacher promises, and is near transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from softtargets.capture import (
    Hybrid,
    TeacherConfig,
    Threshold,
    TransformersTokenizer,
    build,
    open_teacher,
    rescore,
)
from softtargets.capture.calibration import measure_drift
from softtargets.capture.keep.selection import Keep, TopK
from softtargets.capture.segments import segments_of
from softtargets.capture.teachers.llama_cpp_model import LlamaTeacher
from softtargets.capture.teachers.local import LocalTeacher
from softtargets.cli import main
from softtargets.demo.smollm import find_gguf
from softtargets.errors import InputError, TeacherError
from softtargets.store import verify
from tests.capture.teacher_suite import windows
from tests.capture.test_teachers import LocalSuite
from tests.fakes import build_config


def make(path: Path) -> LlamaTeacher:
    teacher = open_teacher(TeacherConfig(name=f"llama:{path}"))
    assert isinstance(teacher, LlamaTeacher)
    return teacher


def make_reference(path: Path) -> LocalTeacher:
    teacher = open_teacher(TeacherConfig(name=f"gguf:{path}", dtype="float32", device="cpu"))
    assert isinstance(teacher, LocalTeacher)
    return teacher


class TestLlamaTeacher(LocalSuite):
    @pytest.fixture(autouse=True)
    def _written(self, tiny_gguf: Path) -> None:
        self.path = tiny_gguf

    def make(self, directory: Path) -> LlamaTeacher:
        return make(self.path)


def test_it_is_near_transformers(tiny_gguf: Path) -> None:
    """Both read the same weights; llama.cpp quantises what they are multiplied with too."""
    teacher, reference = make(tiny_gguf), make_reference(tiny_gguf)
    teacher.load()
    reference.load()
    drift = measure_drift(teacher, reference, windows(teacher), segments_of)
    assert drift.logits is not None
    assert 0 < drift.logits.mean < drift.logits.largest < 0.5
    assert drift.top1 > 0.95


def test_its_positions_are_not_shifted(tiny_gguf: Path) -> None:
    teacher, reference = make(tiny_gguf), make_reference(tiny_gguf)
    teacher.load()
    reference.load()
    ids_1L = torch.arange(12)[None]
    own_LV = teacher.hidden_states(ids_1L)[0]
    other_LV = reference.logits(reference.hidden_states(ids_1L)[0])
    apart_LL = (own_LV[:, None] - other_LV[None]).abs().mean(dim=-1)
    assert (apart_LL.argmin(dim=1) == torch.arange(12)).all()


def test_longer_sequences_than_before_are_read(tiny_gguf: Path) -> None:
    teacher = make(tiny_gguf)
    teacher.load()
    ids_1L = torch.arange(600)[None] % 256
    whole_1LV = teacher.hidden_states(ids_1L)
    torch.testing.assert_close(
        teacher.hidden_states(ids_1L[:, :100]), whole_1LV[:, :100], atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("selection", [Hybrid(k=4), Threshold()])
def test_a_store_says_how_far_it_is_and_agrees_with_its_teacher(
    tiny_gguf: Path, tmp_path: Path, selection: Hybrid | Threshold
) -> None:
    reference = TeacherConfig(name=f"gguf:{tiny_gguf}", dtype="float32", device="cpu")
    config = build_config(tmp_path, selection=selection, reference=reference)
    store = build(config, make(tiny_gguf)).store
    assert verify(store.root).is_sound
    assert 0 < store.manifest.drift["logprobs"]["mean"] < 0.1
    assert store.manifest.identity["teacher"]["quantization"]["types"] == ["F32", "Q8_0"]
    assert rescore(store, make(tiny_gguf), 5).holds
    words = ["verify", str(store.root), "--rescore", "3", "--teacher", f"llama:{tiny_gguf}"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "Beside that, the engine was off from transformers in float32" in result.output


def test_hidden_states_and_options_of_transformers_are_refused(tiny_gguf: Path) -> None:
    keep = Keep(selection=TopK(k=4), temperatures=(1.0,), hidden_states=True)
    with pytest.raises(InputError, match=r"--hidden-states: .* Pass no --hidden-states"):
        make(tiny_gguf).check(keep)
    with pytest.raises(InputError, match="--dtype: expected an option that llama: has a use for"):
        open_teacher(TeacherConfig(name=f"llama:{tiny_gguf}", dtype="float32"))


def test_what_llama_cpp_cannot_load_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    spoiled = tmp_path / "spoiled.gguf"
    spoiled.write_bytes(tiny_gguf.read_bytes().replace(b"blk.1.attn_q", b"blk.1.attn_x"))
    with pytest.raises(TeacherError, match=r"spoiled: expected a model that llama\.cpp can load"):
        make(spoiled).load()


@pytest.mark.slow
def test_smollm2_is_near_transformers() -> None:
    path = find_gguf()
    teacher, reference = make(path), make_reference(path)
    assert isinstance(teacher.tokenizer, TransformersTokenizer)
    teacher.load()
    reference.load()
    drift = measure_drift(teacher, reference, windows(teacher), segments_of)
    assert drift.top1 > 0.85
    assert drift.logprobs.mean < 0.4
