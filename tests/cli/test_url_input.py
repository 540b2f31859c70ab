"""Commands that read a corpus behind a URL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from softtargets.store import Store
from tests.commands import run
from tests.fakes import write_corpus
from tests.generation.chatbot import save_chatbot

pytestmark = pytest.mark.slow


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A file, and the URL of a copy that names it by a pattern."""
    path = write_corpus(tmp_path / "a.jsonl")
    with MemoryFileSystem().open("memory://corpus/a.jsonl", "wb") as file:
        file.write(path.read_bytes())
    yield path, "memory://corpus/*.jsonl"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def test_plan_and_build_take_it(
    tmp_path: Path, tiny_teacher: Path, corpus: tuple[Path, str]
) -> None:
    path, url = corpus
    shared = ("--teacher", tiny_teacher, "--dtype", "float32", "--top-k", "8", "--input")
    planned = run("plan", *shared, url, "--json")
    assert planned.exit_code == 0, planned.output
    for number, own in enumerate((path, url)):
        built = run("build", *shared, own, "--output", tmp_path / f"{number}")
        assert built.exit_code == 0, built.output
    assert "reads memory://corpus/a.jsonl." in built.output
    here, there = (Store.open(tmp_path / name) for name in "01")
    assert json.loads(planned.stdout)["fingerprint"] == here.fingerprint == there.fingerprint
    assert len(there) == 5


def test_generate_takes_it(tmp_path: Path, tiny_teacher: Path, corpus: tuple[Path, str]) -> None:
    path, url = corpus
    chatbot = save_chatbot(tiny_teacher, tmp_path / "chatbot")
    shared = ("--teacher", chatbot, "--dtype", "float32", "--num-beams", "1")
    written = []
    for number, own in enumerate((path, url)):
        output = tmp_path / f"{number}.jsonl"
        made = run("generate", *shared, "--max-new-tokens", "4", "--input", own, "--output", output)
        assert made.exit_code == 0, made.output
        written.append(output.read_bytes())
    assert written[0] == written[1]
    assert written[0].count(b"\n") == 5


def test_a_url_without_files_is_named(tmp_path: Path, tiny_teacher: Path) -> None:
    result = run(
        "build", "--teacher", tiny_teacher, "--input", "memory://key:secret@nothing/*.jsonl",
        "--output", tmp_path / "store",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "memory://nothing/*.jsonl: expected a pattern" in " ".join(result.output.split())
    assert "secret" not in result.output
