"""vLLM's own server on the CPU: its numbers, and builds in which it dies or changes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from softtargets.capture import (
    BuildConfig,
    Corpus,
    Progress,
    TeacherConfig,
    TopK,
    TransformersTeacher,
    Windowing,
    build,
)
from softtargets.capture.servers.served import ServerTeacher
from softtargets.demo.smollm import teacher_directory
from softtargets.errors import InputError, ServerError
from softtargets.store import Store, verify
from tests.fakes import write_corpus
from tests.servers.vllm_process import MOST_ENTRIES, PYTHON, VllmProcess, run_vllm

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(PYTHON not in os.environ, reason="no vLLM here; `make servers` has one"),
]
TOPICS = ("break", "pass")
NOISE = 1e-4
"""Nats by which float32 log-probabilities of two engines differ; 5e-5 was seen."""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm") / "log.txt"


@pytest.fixture(scope="module")
def server(log: Path) -> Iterator[VllmProcess]:
    with run_vllm(teacher_directory(), log, dtype="float32") as server:
        yield server


def served(server: VllmProcess, **options: Any) -> ServerTeacher:
    directory = str(teacher_directory())
    config = TeacherConfig(name=server.url, tokenizer=directory, dtype="float32", **options)
    return ServerTeacher(config)


def config_of(directory: Path, k: int = 64, **changes: Any) -> BuildConfig:
    directory.mkdir(exist_ok=True)
    corpus = write_corpus(directory / "corpus.jsonl", [topics[name] for name in TOPICS])
    return BuildConfig(
        corpus=Corpus(paths=(corpus,)),
        output=directory / "store",
        windowing=Windowing(sequence_length=64),
        selection=TopK(k=k),
        values="float32",
        unit_tokens=100,
        **changes,
    )


def assert_same_targets(one: Store, other: Store) -> None:
    """Up to the noise of two engines, by which ids of like probability may change places."""
    assert [window.window_id for window in one] == [window.window_id for window in other]
    for own, its in zip(one, other, strict=True):
        own_TK, its_TK = own.targets.logprobs_TK(1.0), its.targets.logprobs_TK(1.0)
        np.testing.assert_allclose(own_TK, its_TK, atol=NOISE)
        is_other_TK = own.targets.ids_TK != its.targets.ids_TK
        assert is_other_TK.mean() < 5e-3
        assert own.targets.tail_mass_TG == pytest.approx(its.targets.tail_mass_TG, abs=NOISE)


def test_its_targets_are_those_of_transformers(server: VllmProcess, tmp_path: Path) -> None:
    reference = TeacherConfig(name=str(teacher_directory()), dtype="float32", device="cpu")
    config = config_of(tmp_path / "served", reference=reference)
    store = build(config, served(server)).store
    local = build(config_of(tmp_path / "local"), TransformersTeacher(reference)).store
    assert_same_targets(store, local)
    drift = store.manifest.drift
    assert drift["top1"] == 1
    assert drift["logprobs"]["largest"] < NOISE
    for own, its in zip(store, local, strict=True):
        own_T, its_T = own.targets.label_rank_T, its.targets.label_rank_T
        assert own_T is not None
        assert its_T is not None
        assert (own_T != its_T).mean() < 0.02


def test_a_longer_list_than_it_gives_is_refused(server: VllmProcess, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"--top-k {MOST_ENTRIES}"):
        build(config_of(tmp_path, k=MOST_ENTRIES + 72), served(server))


def test_it_is_killed_and_restarted_in_a_build(tmp_path: Path, log: Path) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(run_vllm(teacher_directory(), log, dtype="float32"))
        whole = build(config_of(tmp_path / "whole"), served(first)).store
        again = run_vllm(teacher_directory(), log, dtype="float32", port=first.port)
        restart = threading.Thread(target=lambda: stack.enter_context(again))

        def kill(progress: Progress) -> None:
            if progress.bytes_per_token and restart.ident is None:
                first.kill()
                restart.start()

        store = build(config_of(tmp_path / "restarted"), served(first), kill).store
        restart.join()
    assert verify(store.root).is_sound
    assert_same_targets(store, whole)


def test_another_model_by_the_same_name_in_a_build_is_refused(tmp_path: Path, log: Path) -> None:
    """What is committed stays, and the build goes on with the first model."""
    other = tmp_path / "other"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49_152, hidden_size=64, intermediate_size=128, num_hidden_layers=1,
        num_attention_heads=1, max_position_embeddings=2048,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(other)
    AutoTokenizer.from_pretrained(teacher_directory()).save_pretrained(other)
    with ExitStack() as stack:
        first = stack.enter_context(run_vllm(teacher_directory(), log, dtype="float32"))
        is_killed = False

        def exchange(progress: Progress) -> None:
            nonlocal is_killed
            if progress.bytes_per_token and not is_killed:
                is_killed = True
                first.kill()
                stack.enter_context(run_vllm(other, log, dtype="float32", port=first.port))

        with pytest.raises(ServerError, match="the answer to the calibration text"):
            build(config_of(tmp_path), served(first), exchange)
    with run_vllm(teacher_directory(), log, dtype="float32") as server:
        result = build(config_of(tmp_path), served(server))
    assert result.num_units_before > 0
    assert verify(result.store.root).is_sound
