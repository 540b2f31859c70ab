"""Batches of many shapes: what a teacher keeps of each is bounded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.capture.families import save_model
from tests.shell import run_python

READ_MANY_LENGTHS = """
import os, torch
from softtargets.capture import TeacherConfig, TransformersTeacher

def resident_megabytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))

# Of a teacher that was loaded before.
for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.pop(name, None)
teacher = TransformersTeacher(TeacherConfig(name=directory))
teacher.load()
for length in range(1, 401):
    hidden_BLD = teacher.hidden_states(torch.zeros((2, length), dtype=torch.long))
    teacher.logits(hidden_BLD.flatten(0, 1))
    if length == 100:
        before = resident_megabytes()
print(resident_megabytes() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_batches_of_many_shapes_leave_no_memory_behind(tmp_path: Path) -> None:
    # A process of its own: how many kernels are kept is settled once. The growth is 4 MB, and 200
    # when all kernels are kept.
    save_model(tmp_path, "Llama", hidden_size=128, max_position_embeddings=512)
    found = run_python(f"directory = {str(tmp_path)!r}\n{READ_MANY_LENGTHS}", tmp_path)
    assert float(found.stdout) < 60, found.stderr
