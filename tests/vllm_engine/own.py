"""Teachers that vLLM runs on the CPU, for tests, and what they are compared by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from softtargets.capture import Keep, Selected, TeacherConfig, Threshold, open_teacher
from softtargets.capture.vllm_engine.vllm_teacher import VllmTeacher
from softtargets.targets import DType
from tests.capture.teacher_suite import NOISE, tensors
from tests.fakes import byte_tokenizer

GRID = (0.5, 1.0, 2.0)
KEEP = Keep(selection=Threshold(), temperatures=GRID)
OPTIONS: dict[str, Any] = {
    "enforce_eager": True,
    "max_model_len": 256,
    "max_num_seqs": 8,
}


def write_llama(directory: Path) -> Path:
    """Write a random Llama with heads that vLLM has kernels for, and 400 outputs, which it pads."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return directory


def make(
    directory: Path,
    *,
    dtype: DType = "float32",
    tensor_parallel: int | None = None,
    **options: Any,
) -> VllmTeacher:
    config = TeacherConfig(
        name=f"vllm:{directory}",
        dtype=dtype,
        tensor_parallel=tensor_parallel,
        engine_arg=tuple((OPTIONS | options).items()),
    )
    teacher = open_teacher(config)
    assert isinstance(teacher, VllmTeacher)
    return teacher


@contextmanager
def running(directory: Path, **options: Any) -> Iterator[VllmTeacher]:
    """Load a teacher, and end its engine afterwards."""
    teacher = make(directory, **options)
    teacher.load()
    try:
        yield teacher
    finally:
        assert teacher._engine is not None
        teacher._engine.close()


EXACT = ("logits_NK", "tail_mass_NG", "logsumexp_NG", "label_logit_N")
"""What differs by rounding alone. Ids whose logits are nearer than that may change places."""


def assert_as_transformers(found: Selected, expected: Selected) -> None:
    own, others = tensors(found), tensors(expected)
    assert own.keys() == others.keys()
    for name, tensor in own.items():
        assert tensor.dtype == others[name].dtype
        is_close = torch.isclose(tensor.double(), others[name].double(), atol=NOISE, rtol=0)
        most = 0 if name in EXACT else 0.01 * tensor.numel()
        assert (~is_close).sum() <= most, name
