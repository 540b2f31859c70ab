"""`softtargets build --engine ray`, as a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from softtargets.places import Place, place_to_write
from tests.fakes import write_corpus
from tests.places.conformance import contents

pytestmark = pytest.mark.slow


def start(address: str, teacher: Path, *options: object) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "softtargets", "build", "--teacher", teacher, "--dtype", "float32",
        "--top-k", "8", "--unit-tokens", "100", *options,
    ]  # fmt: skip
    of_ray = ["--engine", "ray", "--ray-address", address] if address else []
    arguments = [str(one) for one in [*command, *of_ray]]
    return subprocess.Popen(arguments, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def built(address: str, teacher: Path, corpus: Path, output: Path, *options: object) -> Place:
    process = start(address, teacher, "--input", corpus, "--output", output, *options)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert f"Building {output}" in said
    assert "fingerprint" in said
    return place_to_write(output)


def test_the_store_is_that_of_processes(cluster: Any, tmp_path: Path, tiny_teacher: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    on_ray = built(cluster.address, tiny_teacher, corpus, tmp_path / "ray", "--workers", 2)
    here = built("", tiny_teacher, corpus, tmp_path / "here", "--workers", 2)
    assert contents(on_ray) == contents(here)


def test_an_interruption_is_said(cluster: Any, tmp_path: Path, tiny_teacher: Path) -> None:
    """No actor can start, as there is no GPU, so the build cannot be done before."""
    corpus, output = write_corpus(tmp_path / "corpus.jsonl"), tmp_path / "store"
    options = ("--input", corpus, "--output", output, "--gpus-per-worker", 1)
    process = start(cluster.address, tiny_teacher, *options)
    while not (output / "work" / "plan.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate()
    assert process.returncode == 130, said
    assert "Interrupted. The shards done so far are kept" in said


def test_an_address_without_a_cluster_is_an_error(tmp_path: Path, tiny_teacher: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    options = ("--input", corpus, "--output", tmp_path / "store")
    process = start("nowhere", tiny_teacher, *options)
    said, _ = process.communicate()
    assert process.returncode == 1, said
    said = " ".join(said.split())
    assert "--ray-address: expected the address of a Ray cluster; found nowhere: " in said
    assert "ray start --head" in said
