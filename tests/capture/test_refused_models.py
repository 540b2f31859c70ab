"""What no teacher is made of: models, names and devices that are refused by a typed error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from softtargets.capture import TeacherConfig, TransformersTeacher
from softtargets.errors import InputError, TeacherError
from tests.capture.conftest import Save
from tests.capture.families import GROUPED, V, load, save_model


def test_a_model_that_reads_in_both_directions_is_refused(tmp_path: Path) -> None:
    directory = save_model(tmp_path, "Bert", is_decoder=False)
    with pytest.raises(TeacherError, match=r"reads in both directions \(BertLMHeadModel\)"):
        load(directory, "Bert")


@pytest.mark.parametrize("wrong", ["", "https://me:hunter22@host/a"])
def test_a_teacher_is_no_url(wrong: str) -> None:
    with pytest.raises(TeacherError, match="expected a directory, or an id on the Hug") as caught:
        TransformersTeacher(TeacherConfig(name=wrong))
    assert "hunter22" not in str(caught.value)


def test_a_model_without_its_head_is_refused(tmp_path: Path) -> None:
    """transformers loads it with a random one, and warns."""
    config = transformers.LlamaConfig(**GROUPED)
    transformers.LlamaModel(config).save_pretrained(tmp_path)
    with pytest.raises(TeacherError, match=r"head included; found none for lm_head\.weight"):
        load(tmp_path, "Llama")


def test_logits_that_need_more_than_the_last_hidden_states_are_refused(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = transformers.LlamaForCausalLM.forward

    def with_memory(model: Any, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        output = forward(model, input_ids=input_ids, **kwargs)
        output.logits += input_ids[..., None]
        return output

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", with_memory)
    with pytest.raises(TeacherError, match="others from LlamaForCausalLM"):
        load(save("Llama"), "Llama")


def test_a_model_that_cannot_run_is_refused_each_time(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", fail)
    teacher = TransformersTeacher(TeacherConfig(name=str(save("Llama")), device="cpu"))
    for _ in range(2):
        with pytest.raises(TeacherError, match=r"runs in bfloat16 with sdpa .* found ValueError"):
            teacher.load()


@pytest.mark.parametrize("part", ["from_pretrained", "to", "forward"])
def test_a_model_that_does_not_fit_the_memory_is_a_typed_error(
    part: str, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")

    teacher = TransformersTeacher(TeacherConfig(name=str(save("Llama")), device="cpu"))
    owner: Any = (
        AutoModelForCausalLM if part == "from_pretrained" else transformers.LlamaForCausalLM
    )
    monkeypatch.setattr(owner, part, fail)
    with pytest.raises(TeacherError, match="enough memory on cpu for the model; found CUDA error"):
        teacher.load()


def test_a_vocabulary_larger_than_the_embedding_is_refused(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU an id between the two would end the process."""
    teacher = TransformersTeacher(TeacherConfig(name=str(save("Llama")), device="cpu"))
    monkeypatch.setattr(teacher, "vocab_size", V + 1)
    with pytest.raises(TeacherError, match=r"an embedding of 98 rows, .* found 97"):
        teacher.load()


@pytest.mark.parametrize("device", ["cuda:99", "mps"])
def test_a_device_that_is_not_there_is_named(device: str, save: Save) -> None:
    with pytest.raises(InputError, match=f"--device: .* found {device}"):
        TransformersTeacher(TeacherConfig(name=str(save("Llama")), device=device))


def test_an_attention_that_a_model_lacks_is_named(save: Save) -> None:
    teacher = TransformersTeacher(TeacherConfig(name=str(save("Gemma2")), device="cpu"))
    with pytest.raises(TeacherError, match=r"sdpa attention.*try --attention eager"):
        teacher.load()
