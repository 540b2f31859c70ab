"""Memory that malloc keeps between the steps of a training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from softtargets.runs import TrainSettings, prepare
from softtargets.runs.freed_memory import keep_freed_memory
from tests.processes import CONTEXT

BLOCK = 200_000_000


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def kept_of_a_block(is_kept: bool, sender: Any) -> None:
    if is_kept:
        assert keep_freed_memory()
    before = resident_bytes()
    block = torch.ones(BLOCK, dtype=torch.uint8)
    held = resident_bytes() - before
    del block
    sender.send((held, resident_bytes() - before))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize("is_kept", [True, False])
def test_a_block_that_is_freed_is_kept_if_asked(is_kept: bool) -> None:
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=kept_of_a_block, args=(is_kept, there))
    process.start()
    there.close()
    held, kept = here.recv()
    process.join()
    assert held > 0.9 * BLOCK
    assert (kept > 0.9 * BLOCK) is is_kept
    assert (kept < 0.1 * BLOCK) is not is_kept


def set_malloc(monkeypatch: pytest.MonkeyPatch, **functions: Callable[..., int]) -> None:
    library = SimpleNamespace(CDLL=lambda _: SimpleNamespace(**functions))
    monkeypatch.setattr("softtargets.runs.freed_memory.ctypes", library)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What a malloc is asked that grants everything."""
    asked: list[tuple[int, int]] = []

    def mallopt(name: int, value: int) -> int:
        asked.append((name, value))
        return 1

    set_malloc(monkeypatch, mallopt=mallopt)
    for name in ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    return asked


@pytest.mark.parametrize(
    ("name", "value", "is_asked"),
    [
        ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1", True),
        ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=9", False),
        ("MALLOC_TRIM_THRESHOLD_", "0", False),
        ("MALLOC_ARENA_MAX", "1", True),
    ],
)
def test_what_somebody_has_set_stays(
    name: str,
    value: str,
    is_asked: bool,
    asked: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(name, value)
    assert keep_freed_memory() is is_asked
    assert asked == [(-3, 2**30), (-1, 2**30)] * is_asked


def test_another_malloc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    set_malloc(monkeypatch)
    assert not keep_freed_memory()
    set_malloc(monkeypatch, mallopt=lambda *_: 0)
    assert not keep_freed_memory()


@pytest.mark.slow
def test_a_training_on_a_cpu_asks_for_it(
    settings: Callable[..., TrainSettings], asked: list[tuple[int, int]]
) -> None:
    prepare(settings())
    assert bool(asked) is not torch.cuda.is_available()
