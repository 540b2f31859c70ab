from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch

from softtargets.capture import Corpus, Windowing, build, estimate
from softtargets.errors import CorpusError, InputError
from softtargets.store import Store
from tests.commands import run
from tests.fakes import FakeTeacher, build_config, write_corpus


def test_it_counts_what_the_build_makes_and_writes_nothing(tmp_path: Path) -> None:
    config = build_config(tmp_path)
    found = estimate(config, FakeTeacher(), sample_windows=1000)
    assert not config.output.exists()
    store = build(config, FakeTeacher()).store
    assert found.corpus == store.manifest.corpus
    assert found.num_units == len(store.manifest.shards)
    assert found.fingerprint == store.fingerprint
    assert found.sample_windows == len(store)
    assert found.sample_tokens == found.corpus["tokens"]


def test_targets_are_counted_and_sizes_given_for_both(tmp_path: Path) -> None:
    """With overlap and single tokens a target is no token."""
    windowing = Windowing(sequence_length=16, overlap=4)
    config = build_config(tmp_path, windowing=windowing, unit_tokens=10_000)
    found = estimate(config, FakeTeacher(), sample_windows=1000)
    store = build(config, FakeTeacher()).store
    assert found.num_targets == store.num_positions < found.corpus["tokens"]
    rows = found.bytes_per_token * found.corpus["tokens"]
    assert found.bytes_per_target * found.num_targets == pytest.approx(rows)
    stored = sum(one.num_bytes for shard in store.manifest.shards for one in shard.row_groups)
    assert rows == pytest.approx(stored)
    assert found.num_bytes == pytest.approx(store.num_bytes, rel=0.01)


class CountingTeacher(FakeTeacher):
    """Counts the tokens that it reads."""

    num_read = 0

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        self.num_read += input_ids_BL.numel()
        return super().hidden_states(input_ids_BL)


def test_little_of_a_small_corpus_is_scored(tmp_path: Path) -> None:
    """Planning a dozen windows used to take twice what building them does."""
    texts = [f"{number:016}" for number in range(12)]
    corpus = Corpus(paths=(write_corpus(tmp_path / "corpus.jsonl", texts),))
    teacher = CountingTeacher()
    found = estimate(build_config(tmp_path, corpus=corpus), teacher)
    assert (found.sample_windows, found.corpus["windows"]) == (1, 12)
    assert teacher.num_read <= found.corpus["tokens"] / 3


def test_a_large_corpus_gives_sixteen_windows_unless_they_are_long(tmp_path: Path) -> None:
    texts = [f"{number:016}" for number in range(300)]
    corpus = Corpus(paths=(write_corpus(tmp_path / "corpus.jsonl", texts),))
    found = estimate(build_config(tmp_path, corpus=corpus), FakeTeacher())
    assert found.sample_windows == 16
    texts = [f"{number:03}" * 1000 for number in range(60)]
    corpus = Corpus(paths=(write_corpus(tmp_path / "corpus.jsonl", texts),))
    windowing = Windowing(sequence_length=3000)
    found = estimate(build_config(tmp_path, corpus=corpus, windowing=windowing), FakeTeacher())
    assert found.sample_windows == 3


class ClockedTeacher(FakeTeacher):
    """Takes 1,000 seconds for the first sequences that it reads, and then a second more each time.

    The clock stands still otherwise.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.now = 0.0
        self.num_calls = 0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        self.now += self.num_calls or 1000
        self.num_calls += 1
        return super().hidden_states(input_ids_BL)


def test_what_is_done_first_is_not_timed_and_the_rest_has_a_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for num_windows in (8, 1):
        teacher = ClockedTeacher(monkeypatch)
        found = estimate(build_config(tmp_path), teacher, sample_windows=num_windows)
        slowest, fastest = found.slowest_tokens_per_second, found.fastest_tokens_per_second
        assert found.sample_tokens / 1000 < slowest < found.tokens_per_second < fastest
        assert found.least_hours < found.hours < found.most_hours


@pytest.mark.slow
def test_the_size_of_a_large_store_is_that_of_its_sample(tmp_path: Path) -> None:
    texts = [f"{number} {number**3} {number**5}" for number in range(4000)]
    corpus = Corpus(paths=(write_corpus(tmp_path / "corpus.jsonl", texts),))
    config = build_config(tmp_path, corpus=corpus, unit_tokens=100_000)
    found = estimate(config, FakeTeacher(), sample_windows=1000)
    assert found.sample_windows == 1000
    store = build(config, FakeTeacher()).store
    assert found.num_bytes == pytest.approx(store.num_bytes, rel=0.15)


def test_the_sample_is_spread_over_the_corpus_and_always_the_same(tmp_path: Path) -> None:
    texts = ["x" * 16] + [f"{number:016}" for number in range(500)]
    corpus = Corpus(paths=(write_corpus(tmp_path / "corpus.jsonl", texts),))
    config = build_config(tmp_path, corpus=corpus)
    one, other = (estimate(config, FakeTeacher(), sample_windows=20) for _ in range(2))
    assert one.bytes_per_token == other.bytes_per_token
    third = estimate(config, FakeTeacher(), sample_windows=20, seed=1)
    assert one.bytes_per_token != third.bytes_per_token


def test_what_cannot_be_planned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--sample: expected a positive number"):
        estimate(build_config(tmp_path), FakeTeacher(), sample_windows=0)
    corpus = Corpus(paths=(write_corpus(tmp_path / "empty.jsonl", ["", "a"]),))
    with pytest.raises(CorpusError, match="found 2 documents, none with that many"):
        estimate(build_config(tmp_path, corpus=corpus), FakeTeacher())


@pytest.mark.slow
def test_a_budget_finds_a_selection_whose_store_has_that_size(
    tmp_path: Path, tiny_teacher: Path
) -> None:
    text = " ".join(f"the {number**3} slithy toves did gyre {number}" for number in range(200))
    (tmp_path / "text.txt").write_text(text)
    options = (
        "--teacher", tiny_teacher, "--input", tmp_path / "text.txt", "--sequence-length", "64",
        "--temperature", "1", "--temperature", "2",
    )  # fmt: skip
    budget = ("--budget-bytes-per-token", "24", "--seed", "5")
    found = json.loads(run("plan", *options, *budget, "--json").output)
    chosen, *others = found["selections"]
    assert len(others) == 3
    assert 20 < chosen["bytes_per_token"] == found["bytes_per_token"] <= 24
    assert "angle between two gradients" in found["ranked_by"]
    table = run("plan", *options, *budget)
    assert table.exit_code == 0, table.output
    assert f"A build with {chosen['options']}" in table.output
    assert "Selections within 24 bytes a token" in table.output
    assert "Ranked by the angle" in table.output
    for one in found["selections"]:
        kept = one["options"].split()
        seed = ["--seed", "5"] if "--draws" in kept else []
        built = run("build", *options, "--output", tmp_path / "store", *kept, *seed)
        assert built.exit_code == 0, built.output
        store = Store.open(tmp_path / "store")
        assert (store.fingerprint == found["fingerprint"]) == (one is chosen)
        (shard,) = store.manifest.shards
        size = sum(row_group.num_bytes for row_group in shard.row_groups)
        assert size / found["corpus"]["tokens"] == pytest.approx(one["bytes_per_token"], rel=0.2)
        shutil.rmtree(tmp_path / "store")


def test_a_budget_that_cannot_be_kept_is_refused(tmp_path: Path, tiny_teacher: Path) -> None:
    (tmp_path / "text.txt").write_text(
        "Twas brillig, and the slithy toves did gyre and gimble." * 9
    )
    options = ("plan", "--teacher", tiny_teacher, "--input", tmp_path / "text.txt")
    result = run(*options, "--budget-bytes-per-token", "3")
    assert result.exit_code == 1
    assert "expected enough for one entry" in result.output
    for given in (("--top-k", "4"), ("--select", "topk"), ("--hidden-states",)):
        result = run(*options, *given, "--budget-bytes-per-token", "30")
        assert result.exit_code == 1
        assert f"found {given[0]}" in result.output


@pytest.mark.slow
def test_the_command(tmp_path: Path, tiny_teacher: Path) -> None:
    (tmp_path / "text.txt").write_text("Twas brillig, and the slithy toves did gyre and gimble.")
    options = (
        "--teacher", tiny_teacher, "--input", tmp_path / "text.txt", "--top-k", "8",
        "--sequence-length", "16", "--output", tmp_path / "store",
    )  # fmt: skip
    table = run("plan", *options)
    assert table.exit_code == 0, table.output
    assert "4, 55 tokens" in table.output
    assert "bytes a token" in table.output
    found = json.loads(run("plan", *options, "--json").output)
    assert not (tmp_path / "store").exists()
    assert found["corpus"]["windows"] == 4
    assert found["hours"] == pytest.approx(55 / found["tokens_per_second"] / 3600)
    assert found["break_even_epochs"] == pytest.approx(found["hours"] / found["online_hours"])
    assert run("build", *options).exit_code == 0
    assert (
        json.loads(run("info", tmp_path / "store", "--json").output)["fingerprint"]
        == (found["fingerprint"])
    )
