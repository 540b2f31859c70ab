"""Hidden states leave both of vLLM's runners with the right prompt and position."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch

from softtargets.capture.vllm_engine.prompt_rows import PromptPart
from softtargets.capture.vllm_engine.runner_seams import PROMPT, SeamError, install
from tests.vllm_engine.stub_runners import (
    FirstRunner,
    SecondRunner,
    StubRunner,
    StubSeam,
    sampling,
    states_of,
)

RUNNERS = (FirstRunner, SecondRunner)


class Watched:
    """What was handed on of a runner, copied, as its memory is used again."""

    def __init__(self, runner: StubRunner) -> None:
        self.parts: list[PromptPart] = []
        self.kind = install(runner, self._take)

    def _take(self, parts: Any) -> None:
        self.parts += [PromptPart(one.prompt, one.start, one.hidden_PD.clone()) for one in parts]

    def spans(self) -> list[tuple[int, int, int]]:
        """Return prompt, first and last position of each part, when its states are those."""
        for one in self.parts:
            end = one.start + len(one.hidden_PD)
            assert torch.equal(one.hidden_PD, states_of(f"request-{one.prompt}", end)[one.start :])
        return sorted((one.prompt, one.start, one.start + len(one.hidden_PD)) for one in self.parts)


@pytest.fixture(params=RUNNERS, ids=lambda kind: kind.__name__)
def runner(request: pytest.FixtureRequest) -> StubRunner:
    made: StubRunner = request.param()
    return made


def requests(*numbers: int) -> dict[str, Any]:
    return {f"request-{number}": sampling(number) for number in numbers}


def test_parts_of_prompts_come_with_their_positions(runner: StubRunner) -> None:
    watched = Watched(runner)
    assert watched.kind == {FirstRunner: "V1", SecondRunner: "V2"}[type(runner)]
    runner.step({"request-1": 5, "request-2": 3}, requests(1, 2))
    runner.step({"request-2": 4, "request-3": 2}, requests(3))
    runner.step({"request-1": 1, "request-3": 6}, gone=["request-2"])
    expected = [(1, 0, 5), (1, 5, 6), (2, 0, 3), (2, 3, 7), (3, 0, 2), (3, 2, 8)]
    assert watched.spans() == expected


def test_an_interrupted_prompt_begins_anew(runner: StubRunner) -> None:
    watched = Watched(runner)
    runner.step({"request-1": 5}, requests(1))
    runner.step({"request-2": 5}, requests(2), gone=["request-1"])
    runner.step({"request-1": 7, "request-2": 1}, requests(1))
    assert watched.spans() == [(1, 0, 5), (1, 0, 7), (2, 0, 5), (2, 5, 6)]


def test_prompts_that_are_not_ours_are_left_to_vllm(runner: StubRunner) -> None:
    watched = Watched(runner)
    assert runner.step({"request-1": 2}, {"request-1": sampling(None)})["own"] >= 2
    assert watched.spans() == []
    if isinstance(runner, SecondRunner):
        calls = runner.prompt_logprobs_worker.calls
        assert calls == ["remove request-1", "add request-1", "compute"]


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_newer_seam_of_the_vllm_that_is_here_is_as_the_stub() -> None:
    """Its own class is called as the stub is, with its own sampling parameters."""
    from vllm import SamplingParams
    from vllm.v1.worker.gpu.sample.prompt_logprob import PromptLogprobsWorker

    runner = SecondRunner()
    has_device = "device" in inspect.signature(PromptLogprobsWorker).parameters
    device = {"device": torch.device("cpu")} if has_device else {}  # vLLM 0.24 knows none.
    runner.prompt_logprobs_worker = PromptLogprobsWorker(8, **device)
    runner.compute_arguments = (None, None, np.zeros(8, np.int32))
    watched = Watched(runner)
    own = {f"request-{one}": SamplingParams(extra_args={PROMPT: one}) for one in (1, 2)}
    assert runner.step({"request-1": 5, "request-2": 3}, own) == {}
    runner.step({"request-2": 4}, gone=["request-1"])
    assert watched.spans() == [(1, 0, 5), (2, 0, 3), (2, 3, 7)]


def test_another_signature_is_refused() -> None:
    class OtherFirst(FirstRunner):
        def _get_prompt_logprobs_dict(
            self, hidden_states: Any, scheduler_output: Any
        ) -> dict[str, Any]:
            return {}

    class OtherSeam(StubSeam):
        def remove_request(self, req_id: str, reason: str) -> None:  # type: ignore[override]
            pass

    def take(_: Any) -> None:
        raise AssertionError

    with pytest.raises(SeamError) as error:
        install(OtherFirst(), take)
    assert error.value.found == "(hidden_states, scheduler_output)"
    second = SecondRunner()
    second.prompt_logprobs_worker = OtherSeam()
    with pytest.raises(SeamError) as error:
        install(second, take)
    assert error.value.expected == "OtherSeam.remove_request(req_id)"
    # Nothing was replaced before all was compared.
    assert "add_request" not in vars(second.prompt_logprobs_worker)
    with pytest.raises(SeamError, match="no such method"):
        install(object(), take)
