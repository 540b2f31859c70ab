"""Where vLLM's model runners have the last hidden states of all rows that a step read.

vLLM has two runners. In both one method receives what the final norm put out for every row of a
step, with or without logits of the prompt being asked for. It is private, so its parameters are
compared before it is replaced. What it did for prompts that are not ours it still does.

Shapes: S rows of a step, those of one prompt after another, D width of the hidden states.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from softtargets.capture.vllm_engine.prompt_rows import PromptPart

PROMPT = "softtargets_prompt"
"""Under this name the sampling parameters of a prompt say which of ours it is."""
TakeParts = Callable[[Sequence[PromptPart]], None]

_FIRST_SEAM = "_get_prompt_logprobs_dict"
_SECOND_SEAM = {
    "add_request": ("req_id", "req_idx", "sampling_params"),
    "remove_request": ("req_id",),
    "compute_prompt_logprobs": (
        *("logits_fn", "hidden_states", "input_batch"),
        *("all_token_ids", "num_computed_tokens", "prompt_lens"),
    ),
}


class SeamError(Exception):
    """A runner is not as it was in the versions that were tested."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(expected, found)
        self.expected = expected
        self.found = found


def install(runner: Any, take: TakeParts) -> str:
    """Have hidden states of our prompts handed on, step by step, and return which runner it is.

    Args:
        runner: of vLLM's worker.
        take: called in every step that reads some of them. The memory is used again afterwards.

    Raises:
        SeamError: the runner has no such methods, or others.
    """
    if hasattr(runner, "prompt_logprobs_worker"):
        _install_second(runner.prompt_logprobs_worker, take)
        return "V2"
    _check_parameters(runner, _FIRST_SEAM, ("hidden_states", "num_scheduled_tokens"))
    _install_first(runner, take)
    return "V1"


def _install_first(runner: Any, take: TakeParts) -> None:
    original = getattr(runner, _FIRST_SEAM)

    def replaced(hidden_states: Any, num_scheduled_tokens: dict[str, int]) -> Any:
        take(list(_first_parts(runner, hidden_states, num_scheduled_tokens)))
        return original(hidden_states, num_scheduled_tokens)

    setattr(runner, _FIRST_SEAM, replaced)


def _first_parts(
    runner: Any, hidden_SD: Any, num_scheduled_tokens: dict[str, int]
) -> Iterator[PromptPart]:
    for request_id, num_tokens in num_scheduled_tokens.items():
        request = runner.requests[request_id]
        prompt = _prompt_of(request.sampling_params)
        if prompt is not None:
            at = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[request_id]])
            # It is counted on only after the step.
            start = int(request.num_computed_tokens)
            yield PromptPart(prompt, start, hidden_SD[at : at + num_tokens])


def _install_second(seam: Any, take: TakeParts) -> None:
    for name, parameters in _SECOND_SEAM.items():
        _check_parameters(seam, name, parameters)
    originals = {name: getattr(seam, name) for name in _SECOND_SEAM}
    prompts: dict[str, int] = {}

    def add_request(req_id: str, req_idx: int, sampling_params: Any) -> Any:
        prompt = _prompt_of(sampling_params)
        if prompt is not None:
            prompts[req_id] = prompt
        return originals["add_request"](req_id, req_idx, sampling_params)

    def remove_request(req_id: str) -> Any:
        prompts.pop(req_id, None)
        return originals["remove_request"](req_id)

    def compute_prompt_logprobs(
        logits_fn: Any, hidden_states: Any, input_batch: Any, *others: Any, **named: Any
    ) -> Any:
        take(list(_second_parts(prompts, hidden_states, input_batch)))
        compute = originals["compute_prompt_logprobs"]
        return compute(logits_fn, hidden_states, input_batch, *others, **named)

    for replaced in (add_request, remove_request, compute_prompt_logprobs):
        setattr(seam, replaced.__name__, replaced)


def _second_parts(
    prompts: dict[str, int], hidden_SD: Any, input_batch: Any
) -> Iterator[PromptPart]:
    for place, request_id in enumerate(input_batch.req_ids):
        if request_id in prompts:
            at, end = map(int, input_batch.query_start_loc_np[place : place + 2])
            start = int(input_batch.num_computed_prefill_tokens_np[place])
            yield PromptPart(prompts[request_id], start, hidden_SD[at:end])


def _prompt_of(sampling_params: Any) -> int | None:
    """Return which of our prompts a request is, or None."""
    extra = getattr(sampling_params, "extra_args", None) or {}
    found: int | None = extra.get(PROMPT)
    return found


def _check_parameters(owner: Any, name: str, expected: tuple[str, ...]) -> None:
    """Check that a method is called with parameters of these names.

    Raises:
        SeamError: it is not there, or has others.
    """
    method = getattr(owner, name, None)
    if method is None:
        raise SeamError(f"{type(owner).__name__}.{name}", "no such method")
    found = tuple(inspect.signature(method).parameters)
    if found != expected:
        raise SeamError(
            f"{type(owner).__name__}.{name}({', '.join(expected)})", f"({', '.join(found)})"
        )
