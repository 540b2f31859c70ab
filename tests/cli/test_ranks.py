"""Commands in the processes of torchrun, each of which has a part of the teacher."""

from __future__ import annotations

from pathlib import Path

import pytest

from softtargets.store import Store
from tests.commands import run
from tests.fakes import write_corpus
from tests.ranks import run_ranks

OPTIONS = ("--dtype", "float32", "--device", "cpu", "--top-k", "8", "--temperature", "2")


def run_cli(*words: str) -> None:
    from softtargets.cli.main import main

    main(words)


def run_two(log: Path, *words: object) -> tuple[int, str]:
    """Run a command in two processes; return the highest exit code and what they printed."""
    return run_ranks(run_cli, *map(str, words), "--tensor-parallel", "2", num_ranks=2, log=log)


@pytest.fixture
def store(tiny_teacher: Path, tmp_path: Path) -> Store:
    """A store that one process has built."""
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    built = run(
        "build", "--teacher", tiny_teacher, "--input", corpus, "--output", tmp_path / "store",
        *OPTIONS,
    )  # fmt: skip
    assert built.exit_code == 0, built.output
    return Store.open(tmp_path / "store")


@pytest.mark.slow
def test_verify_rescores_with_all_and_prints_once(
    store: Store, tiny_teacher: Path, tmp_path: Path
) -> None:
    words = ("verify", store.root, "--rescore", 3, "--teacher", tiny_teacher, "--device", "cpu")
    code, said = run_two(tmp_path / "log", *words)
    assert code == 0, said
    assert said.count("is sound") == said.count("agrees with the live teacher") == 1
    # Nobody waits for the one that finds damage.
    shard = store.root / store.manifest.shards[0].path
    shard.write_bytes(shard.read_bytes()[:-1])
    code, said = run_two(tmp_path / "damaged", *words)
    assert code == 1
    assert said.count("is damaged") == 1
    assert "live teacher" not in said


@pytest.mark.slow
def test_plan_measures_with_all_and_prints_once(
    store: Store, tiny_teacher: Path, tmp_path: Path
) -> None:
    words = ("plan", "--teacher", tiny_teacher, "--input", tmp_path / "corpus.jsonl", *OPTIONS)
    code, said = run_two(tmp_path / "log", *words)
    assert code == 0, said
    assert said.count(store.fingerprint) == 1
    assert "in 2 processes on this machine" in said
    code, said = run_two(tmp_path / "workers", *words, "--workers", "2")
    assert code == 1
    assert "--workers: expected 1 beside --tensor-parallel" in " ".join(said.split())


def test_cutting_a_teacher_that_is_not_asked_is_refused(tmp_path: Path) -> None:
    result = run("verify", tmp_path, "--tensor-parallel", 2)
    assert result.exit_code == 2
    assert "--tensor-parallel goes with --rescore" in result.output
