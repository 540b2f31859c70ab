"""What tests of the commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import write_corpus


@pytest.fixture
def build_arguments(tmp_path: Path, tiny_teacher: Path) -> list[str | Path]:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    return [
        "build", "--teacher", tiny_teacher, "--input", corpus, "--output", tmp_path / "store",
        "--top-k", "8", "--temperature", "1", "--temperature", "2", "--sequence-length", "32",
        "--dtype", "float32", "--unit-tokens", "100",
    ]  # fmt: skip
