"""Whatever way an engine takes through its prompts, what is kept is what a local teacher keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from softtargets.capture import Hybrid, Keep, Sampled, Segment, Selected, Threshold, TopK, TopP
from softtargets.capture.keep.selection import Draws, Pins, Selection
from softtargets.capture.segments import segments_of
from softtargets.capture.vllm_engine.prompt_rows import PromptPart, PromptRows, Share, in_order
from softtargets.capture.vllm_engine.tensor_bytes import tensors_from_bytes, tensors_to_bytes
from tests.capture.teacher_suite import assert_near, tensors, windows
from tests.fakes import FakeTeacher

SELECTIONS: tuple[Selection, ...] = (
    TopK(k=8),
    TopK(k=4, pins=Pins(ids=(3, 5), label=True)),
    TopP(k=16),
    Sampled(draws=Draws(num=9, design="independent")),
    Hybrid(k=4),
    Threshold(),
)
GRID = (1.0, 2.0)
Steps = Iterator[list[PromptPart]]
ALONE = Share()


class Read:
    """Prompts, with hidden states that an engine would make of them."""

    def __init__(self) -> None:
        self.teacher = FakeTeacher()
        own = windows(self.teacher, lengths=(40, 7))
        # A prompt that occurs twice is two prompts.
        self.segments = [*segments_of(*own), *segments_of(own[0])]
        self.hidden = [
            self.teacher.hidden_states(torch.from_numpy(one.input_ids_L).long()[None])[0]
            for one in self.segments
        ]

    def rows(self, keep: Keep | None, share: Share = ALONE) -> PromptRows:
        make, size = self.teacher.logits, self.teacher.vocab_size
        device = torch.device("cpu")
        return PromptRows(self.segments, keep, make, size, device, share=share, workspace=None)

    def part(self, prompt: int, start: int, stop: int) -> PromptPart:
        return PromptPart(prompt, start, self.hidden[prompt][start:stop].clone())


@pytest.fixture
def read() -> Read:
    return Read()


def whole(read: Read) -> Steps:
    """All prompts in one step."""
    yield [read.part(one, 0, len(own)) for one, own in enumerate(read.hidden)]


def chunked(read: Read) -> Steps:
    """Some tokens of several prompts in a step, the last prompt first."""
    for start in range(0, 40, 7):
        yield [read.part(one, start, start + 7) for one in reversed(range(len(read.hidden)))]


def interrupted(read: Read) -> Steps:
    """Each prompt is begun, given up, and read anew in other parts."""
    for one in range(len(read.hidden)):
        yield [read.part(one, 0, 5)]
    for start in range(0, 40, 11):
        yield [read.part(one, start, start + 11) for one in range(len(read.hidden))]


def used_again(read: Read) -> Steps:
    """The memory of a step is that of the one before."""
    width = read.hidden[0].shape[1]
    buffer = torch.empty((40, width))
    for one, own in enumerate(read.hidden):
        buffer[: len(own)] = own
        yield [PromptPart(one, 0, buffer[: len(own)])]
        buffer.fill_(torch.nan)


WAYS = (whole, chunked, interrupted, used_again)


def kept(rows: PromptRows, steps: Steps) -> dict[str, torch.Tensor]:
    """Return what was kept, through bytes."""
    for step in steps:
        rows.add(step)
    return tensors_from_bytes(tensors_to_bytes(rows.tensors()))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda one: one.kind)
def test_it_keeps_what_a_local_teacher_keeps(
    read: Read, selection: Selection, way: Callable[[Read], Steps]
) -> None:
    keep = Keep(selection=selection, temperatures=GRID, hidden_states=True)
    found = Selected.of_tensors(in_order([kept(read.rows(keep), way(read))]))
    expected = read.teacher.capture(read.segments, keep)
    assert_near(expected, found)
    own, others = tensors(found), tensors(expected)
    assert own.keys() == others.keys()
    for name in ("ids_NK", "num_entries_N", "label_rank_N", "drawn_ids_ND", "hidden_ND"):
        assert name not in own or torch.equal(own[name], others[name]), name


@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda one: one.kind)
def test_workers_share_the_rows(read: Read, selection: Selection) -> None:
    """Each selects some of them, and together they have what one has, bit for bit."""
    keep = Keep(selection=selection, temperatures=GRID, hidden_states=True)
    ranks = [Share(rank=rank, num_ranks=3) for rank in range(3)]
    shares = [kept(read.rows(keep, share), chunked(read)) for share in ranks]
    assert len({len(share["rows"]) for share in shares}) <= 2
    found, expected = in_order(shares), in_order([kept(read.rows(keep), chunked(read))])
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=0)


def test_hidden_states_alone_are_kept_without_logits(read: Read) -> None:
    def no_logits(hidden_ND: torch.Tensor) -> torch.Tensor:
        raise AssertionError

    read.teacher.logits = no_logits  # type: ignore[method-assign]
    found = in_order([kept(read.rows(None), chunked(read))])
    expected = [own[one.positions_T] for own, one in zip(read.hidden, read.segments, strict=True)]
    assert found.keys() == {"hidden_ND"}
    assert torch.equal(found["hidden_ND"], torch.cat(expected))


def test_what_never_came_has_no_row(read: Read) -> None:
    """As when an engine finds the beginning of a prompt in a cache."""
    rows = read.rows(Keep(selection=TopK(k=4), temperatures=GRID))
    assert rows.tensors() == {}
    rows.add([read.part(0, 16, 40)])
    assert rows.tensors()["rows"].tolist() == list(range(16, len(read.segments[0].positions_T)))
    assert in_order([{}, {}]) == {}


def test_only_the_targets_of_a_segment_are_kept(read: Read) -> None:
    def some(segment: Segment) -> Segment:
        own = slice(3, None, 5)
        positions_T, labels_T = segment.positions_T[own], segment.label_ids_T[own]
        return replace(segment, positions_T=positions_T, label_ids_T=labels_T)

    read.segments = list(map(some, read.segments))
    keep = Keep(selection=Hybrid(k=4), temperatures=GRID)
    found = Selected.of_tensors(in_order([kept(read.rows(keep), chunked(read))]))
    assert_near(read.teacher.capture(read.segments, keep), found)


def same(tensors: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    return all(
        one.dtype == other.dtype and torch.equal(one, other)
        for one, other in zip(tensors, others, strict=True)
    )


def test_tensors_survive_bytes() -> None:
    own = {
        "floats": torch.randn((3, 4)),
        "halves": torch.randn((3, 4)).bfloat16(),
        "numbers": torch.arange(3, dtype=torch.int32),
        "none": torch.empty((3, 0)),
        "nothing": torch.empty((0, 5), dtype=torch.int64),
        "odd": torch.from_numpy(np.arange(12.0).reshape(4, 3)).T,
    }
    found = tensors_from_bytes(tensors_to_bytes(own))
    assert list(found) == list(own)
    assert same(list(own.values()), list(found.values()))
    found["floats"].zero_()
    assert tensors_from_bytes(tensors_to_bytes({})) == {}
