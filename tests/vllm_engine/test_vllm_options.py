"""What vLLM may be told, and which vLLM may run a teacher; without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from softtargets.capture import TeacherConfig, open_teacher
from softtargets.capture.teacher_registry import options_of
from softtargets.capture.vllm_engine import vllm_options
from softtargets.capture.vllm_engine.hook_check import BOUNDS, check_hook
from softtargets.capture.vllm_engine.vllm_options import (
    check_engine_args,
    deciding_args,
    vllm_version,
)
from softtargets.cli import main
from softtargets.cli.engine_option import EngineArg
from softtargets.errors import InputError, TeacherError

CONFIG = TeacherConfig(name="vllm:model")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Which vLLM is there, by what the test says."""
    found = {"version": "0.32.0+cpu"}
    monkeypatch.setattr(vllm_options, "find_spec", lambda _: True)
    monkeypatch.setattr(vllm_options, "version", lambda _: found["version"])
    return found


@pytest.mark.parametrize("own", ["0.24.0", "0.32.0+cpu", "0.33.1"])
def test_versions_in_the_range_are_taken(installed: dict[str, str], own: str) -> None:
    installed["version"] = own
    assert vllm_version(CONFIG) == own.partition("+")[0]


@pytest.mark.parametrize("own", ["0.23.9", "0.34.0", "1.32.0", "0.9.2", "dev"])
def test_other_versions_are_refused_with_the_range(installed: dict[str, str], own: str) -> None:
    installed["version"] = own
    with pytest.raises(TeacherError, match=rf"vLLM 0\.24 to 0\.33, .* found {own}\. "):
        vllm_version(CONFIG)


def test_no_vllm_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tiny_teacher: Path
) -> None:
    monkeypatch.setattr(vllm_options, "find_spec", lambda _: None)
    with pytest.raises(TeacherError, match=r"the package vllm, .* found it not installed"):
        open_teacher(TeacherConfig(name=f"vllm:{tiny_teacher}"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dtype": "half"}, "--engine-arg dtype: .* one that --dtype decides. Pass --dtype"),
        ({"tensor_parallel_size": 2}, "--engine-arg tensor_parallel_size: .*--tensor-parallel"),
        ({"enable_prefix_caching": True}, "from a cache has no hidden states. Omit it"),
        ({"worker_extension_cls": "x"}, "--engine-arg worker_extension_cls"),
    ],
)
def test_options_that_are_decided_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_engine_args(given)
    check_engine_args({"max_model_len": 64, "gpu_memory_utilization": 0.5})


def test_options_that_may_change_numbers_decide_the_fingerprint() -> None:
    given = {"quantization": "fp8", "max_num_seqs": 8, "enforce_eager": True, "new_option": 1}
    expected = {"enforce_eager": True, "new_option": 1, "quantization": "fp8"}
    assert deciding_args(given) == expected


def test_a_store_says_how_its_teacher_was_run() -> None:
    described = {"engine": "vllm 0.32.0", "dtype": "float32", "engine_args": {"max_model_len": 64}}
    assert options_of(described, [("max_num_seqs", 2)]) == {
        "dtype": "float32",
        "engine_arg": (("max_model_len", 64), ("max_num_seqs", 2)),
    }
    assert options_of({"engine": "llama-cpp-python 1", "dtype": "float32"}) == {}
    assert options_of({"dtype": "float32", "attention": "eager"}) == {
        "dtype": "float32",
        "attention": "eager",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max-model-len=64", ("max_model_len", 64)),
        ("--enforce-eager=true", ("enforce_eager", True)),
        ("kv_cache_dtype=fp8", ("kv_cache_dtype", "fp8")),
        ('hf_overrides={"a": [1]}', ("hf_overrides", {"a": [1]})),
        ("empty=", ("empty", "")),
    ],
)
def test_values_are_json_or_text(text: str, expected: tuple[str, Any]) -> None:
    assert EngineArg().convert(text, None, None) == expected


def test_an_option_without_a_value_is_refused(tmp_path: Path) -> None:
    words = ["build", "--teacher", "vllm:x", "--engine-arg", "eager", "--output", tmp_path / "s"]
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 2
    assert "'eager' is not of the form NAME=VALUE" in result.output


def test_options_of_others_are_refused(tiny_teacher: Path, installed: dict[str, str]) -> None:
    with pytest.raises(InputError, match="--engine-arg: expected none, as transformers runs"):
        open_teacher(TeacherConfig(name=str(tiny_teacher), engine_arg=(("a", 1),)))
    with pytest.raises(InputError, match="--attention: expected an option that vllm: has a use"):
        open_teacher(TeacherConfig(name=f"vllm:{tiny_teacher}", attention="eager"))
    with pytest.raises(InputError, match="--engine-arg: expected an option that llama: has"):
        open_teacher(TeacherConfig(name="llama:none", engine_arg=(("a", 1),)))


@pytest.mark.parametrize("dtype", list(BOUNDS))
def test_what_is_selected_must_be_what_vllm_lists(dtype: str) -> None:
    listed_LK = np.log(np.random.default_rng(0).dirichlet(np.ones(6), 47))
    check_hook(listed_LK, listed_LK + 0.9 * BOUNDS[dtype], "name", dtype)
    for other_LK in (np.roll(listed_LK, 1, axis=0), listed_LK[1:], np.full_like(listed_LK, np.nan)):
        with pytest.raises(TeacherError, match="vLLM's own prompt_logprobs, within"):
            check_hook(listed_LK, other_LK, "name", dtype)
