"""What `make gpu` runs, on the CPU, so that only the card itself is untried."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch

from tests.shell import run_module

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_module(arguments, ROOT)


@pytest.mark.slow
def test_the_tests_for_a_card_pass_on_the_cpu() -> None:
    found = run("pytest", "-m", "gpu", "tests/gpu", "--device", "cpu", "-W", "default")
    assert found.returncode == 0, found.stdout
    skipped = [line for line in found.stdout.splitlines() if line.startswith("SKIPPED")]
    # vLLM has an environment of its own.
    assert all(line.endswith("vLLM is not installed") for line in skipped), skipped


@pytest.mark.slow
def test_the_benchmark_for_a_card_makes_a_table_on_the_cpu() -> None:
    found = run("tests.benchmarks.gpu", "--device", "cpu", "--tiny")
    assert found.returncode == 0, found.stderr
    rows = found.stdout.splitlines()
    assert len(rows) > 10
    assert all(row.startswith("|") and row.count("|") == 3 for row in rows)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_it_is_said_and_nothing_passes_for_run() -> None:
    found = run("tests.gpu.card")
    assert found.returncode == 1
    assert "no card: torch" in found.stderr
    found = run("pytest", "tests/gpu/test_losses.py", "-W", "default")
    assert found.returncode == 0
    assert re.search(r"SKIPPED \[\d+\] tests/gpu/test_losses\.py", found.stdout)
    assert "passed" not in found.stdout
    assert "no card: torch.cuda.is_available() is false; `make gpu`" in found.stdout
