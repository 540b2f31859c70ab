"""vLLM on a card, which has the newer of its two runners: a stub stands for that elsewhere."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from softtargets.capture import Hybrid, Keep, TeacherConfig, TransformersTeacher
from softtargets.capture.calibration import measure_drift
from softtargets.capture.segments import segments_of
from tests.capture.teacher_suite import windows
from tests.draw_law import deviation
from tests.vllm_engine.own import KEEP, running, write_llama

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed"),
    # vLLM and what it imports warn of what torch will do without.
    pytest.mark.filterwarnings("ignore"),
]


def test_vllm_is_near_transformers(device: str, tmp_path: Path) -> None:
    """In bfloat16, which its kernels for cards are made for."""
    directory = write_llama(tmp_path / "tiny")
    config = TeacherConfig(name=str(directory), dtype="bfloat16", device=device)
    reference = TransformersTeacher(config)
    reference.load()
    drawn = Keep(selection=Hybrid(), temperatures=(1.0,))
    with running(directory, dtype="bfloat16", gpu_memory_utilization=0.3) as teacher:
        segments = segments_of(*windows(teacher, lengths=(200, 40, 7)))
        drift = measure_drift(teacher, reference, windows(teacher), segments_of)
        teacher.capture(segments * 2, KEEP).check()
        found = teacher.capture(segments, drawn)
        logits_NV = teacher.logits(teacher.read(segments))
    assert drift.top1 > 0.9
    assert drift.logprobs.mean < 0.1
    whole = [(slice(0, len(logits_NV)), logits_NV)]
    assert abs(deviation(drawn.selection, found, whole, teacher.vocab_size)) < 4
