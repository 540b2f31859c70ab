"""`softtargets build --engine ray`, as a process of its own."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from softtargets import verify
from softtargets.places import Place, place_to_write
from tests.fakes import write_corpus
from tests.object_store import free_port
from tests.places.conformance import contents
from tests.ray_engine.conftest import NODE
from tests.shell import run_shell
from tests.test_documents import code_blocks

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


def test_the_script_of_the_page_runs(tmp_path: Path, tiny_teacher: Path) -> None:
    """On a cluster of its own, which ends with the command that started it."""
    [script, *_] = code_blocks("docs/engines.md", "sh")
    first, command = script.split("\n", 1)
    port = free_port()
    head = shlex.split(first.replace("6379", str(port)), comments=True)
    head += [
        "--block",
        "--num-cpus",
        "2",
        "--object-store-memory",
        str(NODE["object_store_memory"]),
    ]
    head += ["--include-dashboard", "false", "--disable-usage-stats"]
    head[0] = str(Path(sysconfig.get_path("scripts")) / head[0])
    write_corpus(tmp_path / "corpus.jsonl")
    (tmp_path / "teacher").symlink_to(tiny_teacher)
    with subprocess.Popen(head, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert any("Ray runtime started" in line for line in process.stdout)
            done = run_shell(f"export RAY_ADDRESS=127.0.0.1:{port}\n{command}", tmp_path)
        finally:
            process.terminate()
            process.stdout.read()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert verify(tmp_path / "ray-store").is_sound


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Let processes that are started take Ctrl-C, as those of a shell's background do not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
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
