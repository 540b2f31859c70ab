"""Engines of vLLM with options of their own, and what is refused of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from softtargets.capture import Segment, TeacherConfig, TransformersTeacher
from softtargets.capture.calibration import measure_drift
from softtargets.capture.segments import segments_of
from softtargets.capture.vllm_engine import engine_in_process, runner_seams
from softtargets.capture.vllm_engine.prompt_rows import PromptPart, PromptRows
from softtargets.demo.smollm import teacher_directory
from softtargets.errors import ServerError, TeacherError
from softtargets.store import Store, verify
from tests.capture.teacher_suite import NOISE, windows
from tests.fakes import write_corpus
from tests.vllm_engine.own import KEEP, OPTIONS, assert_as_transformers, make, running

# vLLM and what it imports warn of what torch will do without.
pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@contextmanager
def counted_parts() -> Iterator[list[tuple[int, int, int]]]:
    """Note prompt, first position and length of every part that comes."""
    noted: list[tuple[int, int, int]] = []
    add = PromptRows.add

    def counted(self: PromptRows, parts: Sequence[PromptPart]) -> None:
        noted.extend((one.prompt, one.start, len(one.hidden_PD)) for one in parts)
        add(self, parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptRows, "add", counted)
        yield noted


def test_prompts_may_come_in_chunks(
    tiny_llama: Path, local: TransformersTeacher, segments: list[Segment]
) -> None:
    with running(tiny_llama, max_num_batched_tokens=16) as teacher, counted_parts() as noted:
        found = teacher.capture(segments, KEEP)
    assert max(length for _, _, length in noted) <= 16
    assert any(start > 0 for _, start, _ in noted)
    assert_as_transformers(found, local.capture(segments, KEEP))


def test_prompts_may_be_interrupted(tiny_llama: Path, local: TransformersTeacher) -> None:
    """A cache of few blocks holds the beginnings of several prompts, and not all of them."""
    text = "".join(map(chr, range(32, 126))) * 2
    own = segments_of(*windows(local, texts=tuple(text[one:] for one in range(4)), lengths=(200,)))
    crowded = {
        "block_size": 32,
        "num_gpu_blocks_override": 9,
        "max_num_batched_tokens": 64,
        "long_prefill_token_threshold": 16,
        "scheduler_reserve_full_isl": False,
    }
    with running(tiny_llama, **crowded) as teacher, counted_parts() as noted:
        found = teacher.capture(own, KEEP)
    begun = [prompt for prompt, start, _ in noted if start == 0]
    assert len(begun) > len(set(begun)) == 4
    assert_as_transformers(found, local.capture(own, KEEP))


def test_what_comes_from_a_cache_is_missed(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the short text is read twice."""
    import vllm

    def caching(**options: Any) -> Any:
        return own(**(options | {"enable_prefix_caching": True}))

    own = vllm.LLM
    monkeypatch.setattr(vllm, "LLM", caching)
    with pytest.raises(TeacherError, match=r"hidden states of 47 positions; found 15\."):
        make(tiny_llama, block_size=32).load()


def shifted(parts: Callable[..., Iterator[PromptPart]]) -> Callable[..., Iterator[PromptPart]]:
    def changed(*of: Any) -> Iterator[PromptPart]:
        for one in parts(*of):
            yield replace(one, hidden_PD=one.hidden_PD.roll(1, dims=0))

    return changed


def scaled(parts: Callable[..., Iterator[PromptPart]]) -> Callable[..., Iterator[PromptPart]]:
    def changed(*of: Any) -> Iterator[PromptPart]:
        for one in parts(*of):
            yield replace(one, hidden_PD=one.hidden_PD * 1.05)

    return changed


@pytest.mark.parametrize("broken", [shifted, scaled])
def test_a_broken_seam_is_refused(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, broken: Callable[..., Any]
) -> None:
    monkeypatch.setattr(runner_seams, "_first_parts", broken(runner_seams._first_parts))
    with pytest.raises(TeacherError, match=r"that are vLLM's own prompt_logprobs, within 0\.001"):
        make(tiny_llama).load()


def test_a_changed_seam_is_refused(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_seams, "_FIRST_SEAM", "_get_other_logprobs")
    with pytest.raises(TeacherError, match=r"a vLLM that has .*\._get_other_logprobs; found no"):
        make(tiny_llama).load()


def test_an_engine_may_have_its_own_process(
    tiny_llama: Path,
    local: TransformersTeacher,
    segments: list[Segment],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then what is kept comes as bytes from there."""

    @contextmanager
    def in_its_own() -> Iterator[None]:
        monkeypatch.setenv(engine_in_process._IN_PROCESS, "1")
        yield

    monkeypatch.setattr(engine_in_process, "_in_process", in_its_own)
    with running(tiny_llama) as teacher:
        found = teacher.capture(segments, KEEP)
    assert_as_transformers(found, local.capture(segments, KEEP))


def test_several_workers_share_the_positions(
    tiny_llama: Path,
    local: TransformersTeacher,
    segments: list[Segment],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each has a part of the model, and of an output head that no one could store."""
    cores = sorted(os.sched_getaffinity(0))
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{cores[0]}|{cores[-1]}")
    with running(tiny_llama, tensor_parallel=2) as teacher:
        found = teacher.capture(segments, KEEP)
        assert not teacher.abilities.hidden_states
    assert_as_transformers(found, local.capture(segments, KEEP))


def test_an_engine_that_fails_ends_the_build(
    tiny_llama: Path, segments: list[Segment], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise RuntimeError("a broken kernel")

    with running(tiny_llama) as teacher:
        monkeypatch.setattr(PromptRows, "_keep", failing)
        with pytest.raises(ServerError, match="an engine of vLLM that runs; found a broken kernel"):
            teacher.capture(segments, KEEP)


def test_smollm2_is_near_transformers() -> None:
    directory = teacher_directory()
    config = TeacherConfig(name=str(directory), dtype="float32", device="cpu")
    reference = TransformersTeacher(config)
    reference.load()
    with running(directory) as teacher:
        drift = measure_drift(teacher, reference, windows(teacher), segments_of)
    assert drift.top1 == 1
    assert drift.logits is not None
    assert drift.logits.largest < 1e-3


def test_longer_prompts_than_it_reads_are_refused(
    tiny_llama: Path, segments: list[Segment]
) -> None:
    with running(tiny_llama, max_model_len=64) as teacher:
        assert teacher.longest_sequence == 64
        with pytest.raises(TeacherError, match="at most 63 tokens before the last one"):
            teacher.capture(segments, KEEP)


def test_a_process_has_one_engine(tiny_llama: Path, segments: list[Segment]) -> None:
    with running(tiny_llama) as teacher:
        with pytest.raises(TeacherError, match="one engine of vLLM in a process"):
            make(tiny_llama, max_model_len=128).load()
        same = make(tiny_llama)
        same.load()
        assert same._engine is teacher._engine
        assert same._engine is not None
        assert same._engine.runner == "V1"


@pytest.mark.parametrize(
    ("options", "found"),
    [({"quantization": "nothing"}, "quantization"), ({"no_option": 1}, "no_option")],
)
def test_what_vllm_cannot_load_is_refused(
    tiny_llama: Path, options: dict[str, Any], found: str
) -> None:
    with pytest.raises(TeacherError, match=f"that vLLM can load; found .*{found}"):
        make(tiny_llama, **options).load()


def test_a_cache_that_is_too_small_is_refused(tiny_llama: Path) -> None:
    """Another engine can be loaded afterwards."""
    with pytest.raises(TeacherError, match=r"that vLLM can load; found .* KV cache"):
        make(tiny_llama, block_size=32, num_gpu_blocks_override=2).load()
    with running(tiny_llama):
        pass


def test_logits_of_another_width_are_refused(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = make(tiny_llama)
    teacher.vocab_size = 390
    with pytest.raises(TeacherError, match=r"expected logits of 390 ids, .* found 400"):
        teacher.load()


def run_command(words: Sequence[str]) -> str:
    """Run `softtargets` in a process with real streams, which vLLM closes for a while."""
    done = subprocess.run(
        [sys.executable, "-m", "softtargets", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_store_is_built_compared_and_rescored(tiny_llama: Path, tmp_path: Path) -> None:
    """By the command line, as a user does."""
    corpus, output = write_corpus(tmp_path / "corpus.jsonl"), str(tmp_path / "store")
    given = [word for name in OPTIONS for word in ("--engine-arg", f"{name}={OPTIONS[name]!r}")]
    words = [
        *("build", "--teacher", f"vllm:{tiny_llama}", "--reference", str(tiny_llama)),
        *("--dtype", "float32", "--input", str(corpus), "--output", output),
        *("--sequence-length", "64"),
        *("--temperature", "1", "--temperature", "2", *(word.lower() for word in given)),
    ]
    run_command(words)
    store = Store.open(output)
    assert verify(output).is_sound
    described = store.manifest.identity["teacher"]
    assert described["engine"].startswith("vllm 0.")
    assert described["engine_args"] == {"enforce_eager": True, "max_model_len": 256}
    assert store.manifest.drift["top1"] == 1
    assert store.manifest.drift["logits"]["largest"] < NOISE
    rescoring = ["verify", output, "--rescore", "3", "--teacher", f"vllm:{tiny_llama}"]
    said = run_command(rescoring)
    assert "Beside that, the engine was off from transformers in float32" in said
