"""Batches of many shapes: what a teacher keeps of each is bounded."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from softtargets.capture.segments import segments_of
from tests.capture.families import load, save_model
from tests.shell import run_python
from tests.windows import make_tokens, topk_schema

READ_MANY_LENGTHS = """
import os
import numpy as np
from softtargets.capture import TeacherConfig, TransformersTeacher
from softtargets.capture.segments import Segment

def resident_megabytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))

def segment(length):
    places = np.arange(length, dtype=np.int32)
    return Segment(
        window=None, document_id="", start=0,
        input_ids_L=places * 0, positions_T=places, label_ids_T=places * 0,
    )

# Of a teacher that was loaded before.
for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.pop(name, None)
teacher = TransformersTeacher(TeacherConfig(name=directory))
teacher.load()
for length in range(1, 401):
    teacher.logits(teacher.read([segment(length), segment(length)]))
    if length == 100:
        before = resident_megabytes()
print(resident_megabytes() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_batches_of_many_shapes_leave_no_memory_behind(tmp_path: Path) -> None:
    # A process of its own: how many kernels are kept is settled once. The growth is 4 MB, and 45 on
    # a CPU with AMX. It was 200 where all kernels were kept, and 174 with AMX where no length was
    # padded.
    save_model(tmp_path, "Llama", hidden_size=128, max_position_embeddings=512)
    found = run_python(f"directory = {str(tmp_path)!r}\n{READ_MANY_LENGTHS}", tmp_path)
    assert float(found.stdout) < 90, found.stderr


@pytest.mark.parametrize(
    ("family", "dtype", "length", "expected"),
    [
        ("GPT2", "bfloat16", 8, 8),
        ("GPT2", "bfloat16", 9, 16),
        ("GPT2", "bfloat16", 57, 57),
        ("GPT2", "float32", 9, 9),
        ("Roberta", "bfloat16", 57, 57),
    ],
)
def test_numbers_of_16_bits_are_computed_for_few_lengths(
    family: str, dtype: str, length: int, expected: int, tmp_path: Path
) -> None:
    """And never for more tokens than the model has positions for: 60, and 64 less 2."""
    changes = {"n_positions": 60} if family == "GPT2" else {}
    teacher = load(save_model(tmp_path, family, **changes), family, dtype)
    lengths: list[int] = []
    embedding: torch.nn.Module = teacher._model.get_input_embeddings()
    embedding.register_forward_pre_hook(lambda _, read: lengths.append(read[0].shape[-1]))
    places = np.arange(length, dtype=np.int32)
    some = segments_of(make_tokens(np.random.default_rng(0), topk_schema(), 8, 1.0))[0]
    hidden_ND = teacher.read([replace(some, input_ids_L=places, positions_T=places)])
    assert hidden_ND.shape == (length, 32)
    assert lengths == [expected]
