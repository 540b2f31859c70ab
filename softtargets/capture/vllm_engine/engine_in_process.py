"""A vLLM engine in this process, which reads prompts and has its workers keep targets of them.

Shapes: N targets of prompts, V vocabulary, D width of the hidden states.
"""

from __future__ import annotations

import json
import os
import pickle
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from softtargets.capture.keep.selection import Keep
from softtargets.capture.segments import Segment, name_segments
from softtargets.capture.teachers.live_head import LiveHead
from softtargets.capture.vllm_engine.engine_head import engine_head
from softtargets.capture.vllm_engine.prompt_rows import in_order
from softtargets.capture.vllm_engine.runner_seams import PROMPT
from softtargets.capture.vllm_engine.tensor_bytes import tensors_from_bytes, tensors_to_bytes
from softtargets.errors import ServerError, TeacherError, error_text

_EXTENSION = "softtargets.capture.vllm_engine.worker_extension.WorkerExtension"
_IN_PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"
_UNLESS_SET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
"""vLLM says much, and tells its authors how it is used, unless the environment says otherwise."""
_MEMORY = (
    "Leave the selection memory, as with --engine-arg gpu_memory_utilization=0.8, or pass "
    "--engine-arg max_num_batched_tokens=2048."
)

_LOADING_ERRORS = (
    *(RuntimeError, ValueError, TypeError, OSError, ImportError, KeyError),
    # By which vLLM checks what people ask for, too.
    *(AssertionError, NotImplementedError),
)
_LIVE: weakref.WeakValueDictionary[str, VllmEngine] = weakref.WeakValueDictionary()
"""The engine of this process, by its options."""


def open_engine(name: str, options: Mapping[str, Any]) -> VllmEngine:
    """Return the engine of this process with some options; a new one if there is none.

    What vLLM keeps for its devices is the process's own, so a process has one engine at a time.

    Args:
        name: of the teacher, for messages.
        options: of vLLM.

    Raises:
        TeacherError: vLLM cannot load it, or the process has one with other options.
    """
    key = json.dumps(options, sort_keys=True)
    found = _LIVE.get(key)
    if found is None:
        if _LIVE:
            raise TeacherError(
                name,
                expected="one engine of vLLM in a process",
                found="another one that runs",
                next_step="Delete the teacher that has it first.",
            )
        found = _LIVE[key] = VllmEngine(name, options)
    return found


class VllmEngine:
    """An engine with a model, in whose workers targets are selected.

    It ends when nobody refers to it any more. `open_engine` makes it.
    """

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self._name = name
        self.runner: str | None = None
        """Which of vLLM's two runners the workers have, V1 or V2, once targets are selected."""
        self.is_checked = False
        """Whether what it gives was compared with what vLLM lists."""
        with _in_process(), _loading(name):
            from vllm import LLM

            self._llm = LLM(
                **options,
                skip_tokenizer_init=True,
                enable_prefix_caching=False,
                worker_extension_cls=_EXTENSION,
                disable_log_stats=True,
            )
        # vLLM would end it only when the garbage is collected, and then its successor too.
        self._end = weakref.finalize(self, self._llm.llm_engine.engine_core.shutdown)
        self.longest_prompt = int(self._llm.model_config.max_model_len) - 1
        """In tokens: the engine writes one after each."""

    def close(self) -> None:
        """End the engine, which gives back its memory."""
        self._end()
        for key in [key for key, one in _LIVE.items() if one is self]:
            del _LIVE[key]

    def install(self, vocab_size: int) -> None:
        """Have workers select targets of what is read from now on.

        Raises:
            TeacherError: this vLLM's workers are not as in the versions that were tested.
        """
        for said in self._llm.collective_rpc("softtargets_install", args=(vocab_size,)):
            found = json.loads(said)
            if "expected" in found:
                raise TeacherError(
                    self._name,
                    expected=f"a vLLM that has {found['expected']}",
                    found=found["found"],
                    next_step="Install a version that was tested: docs/teachers.md has the range.",
                )
            self.runner = found["runner"]

    def listed(self, prompts: Sequence[Sequence[int]], k: int) -> list[list[Any]]:
        """Return what vLLM itself lists for prompts: id -> what it says, at each position."""
        outputs = self._generate(prompts, [{"prompt_logprobs": k}] * len(prompts))
        return [list(output.prompt_logprobs) for output in outputs]

    def keep(self, segments: Sequence[Segment], keep: Keep | None) -> dict[str, torch.Tensor]:
        """Return what is to be kept of the targets [N, ...] of segments, by its name.

        Each is a prompt, up to its last target.

        Raises:
            TeacherError: a segment is too long, or memory does not suffice.
            ServerError: the engine came to an end.
        """
        prompts = [
            segment.input_ids_L[: segment.positions_T[-1] + 1].tolist() for segment in segments
        ]
        self._check_lengths(prompts, segments)
        request = pickle.dumps((list(segments), keep))
        self._llm.collective_rpc("softtargets_begin", args=(request,))
        marks = [{"extra_args": {PROMPT: number}} for number in range(len(prompts))]
        self._generate(prompts, marks)
        failures = self._llm.collective_rpc("softtargets_failure")
        shares = [tensors_from_bytes(one) for one in self._llm.collective_rpc("softtargets_end")]
        if any(failures):
            raise TeacherError(
                f"{self._name}, {name_segments(segments)}",
                expected="enough memory beside vLLM's for the selection",
                found=next(filter(None, failures)),
                next_step=_MEMORY,
            )
        kept = in_order(shares)
        self._check_complete(kept, segments)
        return kept

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, V] of hidden states, on the host."""
        written = tensors_to_bytes({"hidden_ND": hidden_ND})
        first, *_ = self._llm.collective_rpc("softtargets_logits", args=(written,))
        return tensors_from_bytes(first)["logits_NV"]

    def head(self, vocab_size: int) -> LiveHead | None:
        """Return the output head, if a single worker has it."""
        first, *others = self._llm.collective_rpc("softtargets_head")
        if others:
            return None
        (after,) = self._llm.collective_rpc("softtargets_after_head")
        return engine_head(tensors_from_bytes(first), json.loads(after), vocab_size)

    def _generate(
        self, prompts: Sequence[Sequence[int]], parameters: Sequence[dict[str, Any]]
    ) -> list[Any]:
        """Have prompts read, and a token written after each, which nobody looks at.

        Raises:
            ServerError: the engine came to an end.
        """
        from vllm import SamplingParams

        sampling = [
            SamplingParams(max_tokens=1, temperature=0, detokenize=False, **one)
            for one in parameters
        ]
        tokens = [{"prompt_token_ids": prompt} for prompt in prompts]
        try:
            outputs: list[Any] = self._llm.generate(tokens, sampling, use_tqdm=False)
        except RuntimeError as error:
            raise ServerError(
                self._name,
                expected="an engine of vLLM that runs",
                found=error_text(error),
                next_step="Run the same command again; what is committed stays. If it is memory "
                "that does not suffice, pass --engine-arg gpu_memory_utilization=0.8.",
            ) from error
        return outputs

    def _check_lengths(self, prompts: Sequence[Sequence[int]], segments: Sequence[Segment]) -> None:
        for prompt, segment in zip(prompts, segments, strict=True):
            if len(prompt) > self.longest_prompt:
                raise TeacherError(
                    name_segments([segment]),
                    expected=f"at most {self.longest_prompt} tokens before the last one, as vLLM "
                    f"reads {self.longest_prompt + 1}",
                    found=str(len(prompt)),
                    next_step="Pass a smaller --sequence-length, or --engine-arg max_model_len=N.",
                )

    def _check_complete(
        self, kept: Mapping[str, torch.Tensor], segments: Sequence[Segment]
    ) -> None:
        num_kept = len(next(iter(kept.values()))) if kept else 0
        num_targets = sum(len(segment.positions_T) for segment in segments)
        if num_kept != num_targets:
            raise TeacherError(
                f"{self._name}, {name_segments(segments)}",
                expected=f"hidden states of {num_targets:,} positions",
                found=f"{num_kept:,}",
                next_step="This vLLM does not read every token anew; please report it with the "
                "options that it was given.",
            )


@contextmanager
def _in_process() -> Iterator[None]:
    """Have vLLM's engine run in this process, whatever the environment says."""
    wanted = {name: os.environ.get(name, value) for name, value in _UNLESS_SET.items()}
    wanted[_IN_PROCESS] = "0"
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _loading(name: str) -> Iterator[None]:
    try:
        yield
    except _LOADING_ERRORS as error:
        raise TeacherError(
            name,
            expected="a model and options that vLLM can load",
            # What is wrong stands in later lines of some errors.
            found=" ".join(str(error).split()) or type(error).__name__,
            next_step="Check --engine-arg and the model directory. What vLLM printed before says "
            "more.",
        ) from error
