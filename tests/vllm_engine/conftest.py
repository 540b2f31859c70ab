"""Tests that need vLLM: `make vllm`, which has an environment of its own for them."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from softtargets.capture import Segment, TeacherConfig, TransformersTeacher
from softtargets.capture.segments import segments_of
from tests.capture.teacher_suite import windows
from tests.vllm_engine.own import write_llama

NO_VLLM = "no vLLM here: `make vllm` installs it and runs these"
MUST_RUN = "SOFTTARGETS_MUST_RUN_VLLM"
"""Set by `make vllm`, so that nothing is skipped there."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if find_spec("vllm") is None and MUST_RUN not in os.environ:
        for item in items:
            if Path(item.path).parent == Path(__file__).parent and item.get_closest_marker("vllm"):
                item.add_marker(pytest.mark.skip(reason=NO_VLLM))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("vllm") / "tiny")


@pytest.fixture(scope="session")
def local(tiny_llama: Path) -> TransformersTeacher:
    config = TeacherConfig(name=str(tiny_llama), dtype="float32", device="cpu")
    teacher = TransformersTeacher(config)
    teacher.load()
    return teacher


@pytest.fixture(scope="session")
def segments(local: TransformersTeacher) -> list[Segment]:
    return segments_of(*windows(local, lengths=(200, 40, 7)))
