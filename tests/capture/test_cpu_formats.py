"""How long this CPU takes for a number format, and who is told of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from softtargets.capture import TeacherConfig, TransformersTeacher
from softtargets.capture.teachers import cpu_formats
from softtargets.capture.teachers.cpu_formats import times_float32

CPU = torch.device("cpu")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that takes 7.5 times as long for 16 bits as for 32."""

    def seconds(layer: nn.Linear) -> float:
        return 1.0 if layer.weight.dtype == torch.float32 else 7.5

    monkeypatch.setattr(cpu_formats, "_seconds", seconds)
    times_float32.cache_clear()


@pytest.fixture(autouse=True)
def _measured_anew() -> Iterator[None]:
    yield
    times_float32.cache_clear()


def test_what_is_measured_is_a_ratio() -> None:
    for dtype in ("bfloat16", "float16", "float32"):
        assert 0 < times_float32(dtype) < math.inf


def test_the_best_of_all_rounds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([9.0, 5.0, *[8.0, 2.0] * 4, 6.0, 4.0, *[8.0, 2.0] * 4])
    monkeypatch.setattr(cpu_formats, "_seconds", lambda _: next(taken))
    times_float32.cache_clear()
    assert times_float32("float16") == 3.0
    assert list(taken) == []


@pytest.mark.parametrize(
    ("dtype", "fewest", "is_warned"),
    [
        ("bfloat16", 0, True),
        ("float16", 0, True),
        ("float32", 0, False),
        ("bfloat16", 10**9, False),
    ],
)
def test_a_large_teacher_in_a_slow_format_is_told_of_once(
    dtype: str,
    fewest: int,
    is_warned: bool,
    tiny_teacher: Path,
    slow: None,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[str],
) -> None:
    monkeypatch.setattr(cpu_formats, "_FEW_PARAMETERS", fewest)
    teacher = TransformersTeacher(
        TeacherConfig(name=str(tiny_teacher), dtype=dtype, device="cpu")  # type: ignore[arg-type]
    )
    teacher.load()
    teacher.load()
    said = f"{tiny_teacher.name}: this CPU takes 7.5 times as long for {dtype} as for float32. "
    assert [one[: len(said)] for one in logged] == [said] * is_warned


def test_other_devices_are_not_measured(
    slow: None, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.setattr(cpu_formats, "_FEW_PARAMETERS", 0)
    model = nn.Linear(2, 2)
    cpu_formats.warn_of_slow_format("it", model, "bfloat16", torch.device("mps"))
    assert not logged
    cpu_formats.warn_of_slow_format("it", model, "bfloat16", CPU)
    assert logged
