"""Tests that need vLLM: `make vllm`, which has an environment of its own for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from softtargets.capture import Segment, TeacherConfig, TransformersTeacher
from softtargets.capture.segments import segments_of
from tests.capture.teacher_suite import windows
from tests.environments import skip_without
from tests.vllm_engine.own import write_llama


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them where it is not installed, but not by `make vllm`, which sets the variable."""
    skip_without(
        "vllm",
        items,
        directory=Path(__file__).parent,
        marker="vllm",
        unless="SOFTTARGETS_MUST_RUN_VLLM",
        reason="no vLLM here: `make vllm` installs it and runs these",
    )


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
