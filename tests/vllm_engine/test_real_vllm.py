"""A model that vLLM runs on the CPU keeps what every teacher promises, as transformers does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from softtargets.capture import (
    Hybrid,
    Keep,
    Sampled,
    Segment,
    Teacher,
    Threshold,
    TopK,
    TopP,
    TransformersTeacher,
)
from softtargets.capture.keep.logit_chunks import COMPARING
from softtargets.capture.keep.selection import Draws, Pins, Selection
from softtargets.capture.vllm_engine.prompt_rows import PromptPart, PromptRows
from softtargets.capture.vllm_engine.vllm_teacher import VllmTeacher
from softtargets.errors import TeacherError
from tests.capture.teacher_suite import NOISE, TeacherSuite
from tests.draw_law import deviation
from tests.vllm_engine.own import GRID, KEEP, assert_as_transformers, make, running

# vLLM and what it imports warn of what torch will do without.
pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SELECTIONS: tuple[Selection, ...] = (
    TopK(k=8),
    TopK(k=4, pins=Pins(ids=(3, 5), label=True)),
    TopP(k=16),
    Sampled(draws=Draws(num=9, design="independent")),
    Hybrid(k=4),
    Threshold(),
)


@pytest.fixture(scope="module")
def teacher(tiny_llama: Path) -> Iterator[VllmTeacher]:
    with running(tiny_llama) as teacher:
        yield teacher


@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda one: one.kind)
def test_its_targets_are_those_of_transformers(
    teacher: VllmTeacher,
    local: TransformersTeacher,
    segments: list[Segment],
    selection: Selection,
) -> None:
    keep = Keep(selection=selection, temperatures=GRID)
    assert_as_transformers(teacher.capture(segments, keep), local.capture(segments, keep))


class TestVllmTeacher(TeacherSuite):
    @pytest.fixture(autouse=True)
    def _saved(self, tiny_llama: Path) -> None:
        self.saved = tiny_llama

    def make(self, directory: Path) -> VllmTeacher:
        return make(self.saved)

    def damage(self, teacher: Teacher) -> None:
        """Let hidden states be NaN after the letter q."""
        assert isinstance(teacher, VllmTeacher)
        ((letter_id,),) = teacher.tokenizer.encode_batch(["q"])
        add, begin = PromptRows.add, PromptRows.__init__

        def noted(self: Any, segments: Sequence[Segment], *others: Any, **named: Any) -> None:
            begin(self, segments, *others, **named)
            self.ids = [torch.from_numpy(one.input_ids_L) for one in segments]

        def damaged(self: Any, parts: Sequence[PromptPart]) -> None:
            add(self, [replace(one, hidden_PD=spoiled(self.ids, one)) for one in parts])

        def spoiled(ids: list[torch.Tensor], part: PromptPart) -> torch.Tensor:
            read_P = ids[part.prompt][part.start : part.start + len(part.hidden_PD)]
            return part.hidden_PD.masked_fill(read_P[:, None] == letter_id, torch.nan)

        self.patch.setattr(PromptRows, "__init__", noted)
        self.patch.setattr(PromptRows, "add", damaged)

    @pytest.fixture(autouse=True)
    def _patched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch


def test_repeated_prompts_are_read_again(
    teacher: VllmTeacher, local: TransformersTeacher, segments: list[Segment]
) -> None:
    again = [segments[0]] * 3 + segments
    for _ in range(2):
        assert_as_transformers(teacher.capture(again, KEEP), local.capture(again, KEEP))


def test_hidden_states_and_head_make_the_logits(
    teacher: VllmTeacher, local: TransformersTeacher, segments: list[Segment]
) -> None:
    keep = Keep(selection=Hybrid(k=4), temperatures=(1.0,), hidden_states=True)
    hidden_ND = teacher.capture(segments, keep).hidden_ND
    assert hidden_ND is not None
    logits_NV = hidden_ND @ torch.from_numpy(teacher.output_head().weight_VD).T
    expected_NV = local.logits(local.read(segments))
    torch.testing.assert_close(logits_NV, expected_NV, atol=NOISE, rtol=0)


def test_too_little_memory_for_the_selection_says_so(
    teacher: VllmTeacher, segments: list[Segment], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(PromptRows, "_keep", failing)
        with pytest.raises(TeacherError, match=r"gpu_memory_utilization=0\.8"):
            teacher.capture(segments, KEEP)
    teacher.capture(segments, KEEP).check()


@pytest.mark.parametrize(
    "selection",
    [
        Sampled(draws=Draws(num=64, design="independent")),
        Sampled(draws=Draws(num=64)),
        Hybrid(k=4, draws=Draws(num=64)),
        Threshold(draws=Draws(num=17)),
    ],
    ids=["independent", "systematic", "hybrid", "threshold"],
)
def test_draws_follow_the_law_of_transformers(
    teacher: VllmTeacher,
    local: TransformersTeacher,
    segments: list[Segment],
    selection: Sampled | Threshold,
) -> None:
    found = teacher.capture(segments, Keep(selection=selection, temperatures=(1.0,)))
    chunks = local.chunks(local.read(segments), COMPARING)
    assert abs(deviation(selection, found, chunks, teacher.vocab_size)) < 4
