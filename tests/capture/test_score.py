from __future__ import annotations

import dataclasses
import sys
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softtargets.capture import TopK, Windowing, build
from softtargets.capture.batches import plan_batches
from softtargets.capture.documents import Document
from softtargets.capture.keep.selected import Selected
from softtargets.capture.memory import free_memory
from softtargets.capture.score import Scorer, pack_windows
from softtargets.capture.segments import segments_of
from softtargets.errors import StoreError, TeacherError
from softtargets.window import TokenWindow, Window
from tests.fakes import TEXTS, ByteTokenizer, FakeTeacher, build_config
from tests.windows import topk_schema

SCHEMA = topk_schema(lossless=True)
batches_module = sys.modules["softtargets.capture.batches"]


def token_windows() -> list[TokenWindow]:
    documents = [Document(content=t, document_id=str(i), source="s") for i, t in enumerate(TEXTS)]
    return list(Windowing(sequence_length=33).windows(documents, ByteTokenizer(), Counter()))


def score(
    teacher: FakeTeacher, batch_tokens: int, windows: list[TokenWindow] | None = None
) -> list[Window]:
    return scored(teacher, windows or token_windows(), batch_tokens)


def scored(
    teacher: FakeTeacher, windows: list[TokenWindow], batch_tokens: int = 100
) -> list[Window]:
    scorer = Scorer(teacher, TopK(k=8), SCHEMA, batch_tokens)
    return pack_windows(windows, scorer.score(windows), SCHEMA)


@given(st.lists(st.integers(2, 40), max_size=30), st.integers(1, 100))
def test_batches_hold_every_window_once_within_the_budget(
    lengths: list[int], batch_tokens: int
) -> None:
    batches = plan_batches(lengths, batch_tokens)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        widths = [lengths[place] for place in batch]
        assert len(batch) == 1 or len(batch) * max(widths) <= batch_tokens
        assert sum(widths) >= 0.95 * len(batch) * max(widths)
        assert widths == sorted(widths, reverse=True)


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(2, 40), st.integers(1, 60)), max_size=30))
def test_batches_of_two_lengths_hold_every_window_once_within_the_budget(
    lengths: list[tuple[int, int]],
) -> None:
    own, encoders = [one for one, _ in lengths], [other for _, other in lengths]
    batches = plan_batches(own, 150, encoders)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        widest = max(own[one] for one in batch) + max(encoders[one] for one in batch)
        assert len(batch) == 1 or len(batch) * widest <= 150
        num_tokens = sum(own[one] + encoders[one] for one in batch)
        assert num_tokens >= 0.9 * len(batch) * widest


def test_windows_of_like_length_share_a_batch() -> None:
    assert plan_batches([8, 8, 8], 64, [40, 3, 40]) == [[0], [2], [1]]
    assert plan_batches([8, 8, 8], 96, [40, 3, 40]) == [[0, 2], [1]]
    assert plan_batches([8, 8, 8, 8, 8], 24) == [[0, 1, 2], [3, 4]]
    assert plan_batches([100, 3, 99, 3, 95, 50], 1000) == [[0, 2, 4], [5], [1, 3]]


def test_the_target_at_a_position_is_that_of_the_next_token() -> None:
    """Against the teacher's own logits for each window alone; shifted by one, it must differ."""
    teacher = FakeTeacher()
    for window in score(teacher, 100):
        ids_1L = torch.from_numpy(window.input_ids_L.astype(np.int64))[None]
        logits_LV = teacher.logits(teacher.hidden_states(ids_1L)[0])
        targets = window.targets
        expected_TK, _ = logits_LV[:-1].topk(8)
        np.testing.assert_allclose(targets.logits_TK, expected_TK, rtol=1e-5, atol=1e-5)
        labels_T1 = ids_1L[0, 1:, None]
        assert targets.label_logit_T is not None
        label_logits_T = logits_LV[:-1].gather(1, labels_T1)[:, 0]
        np.testing.assert_allclose(targets.label_logit_T, label_logits_T, rtol=1e-5, atol=1e-5)
        shifted_TK, _ = logits_LV[1:].topk(8)
        assert np.abs(targets.logits_TK - shifted_TK.numpy()).max() > 0.1


@pytest.mark.parametrize("batch_tokens", [1, 34, 70, 10_000])
def test_batching_changes_numbers_by_rounding_noise_only(batch_tokens: int) -> None:
    for one, other in zip(
        score(FakeTeacher(), 100), score(FakeTeacher(), batch_tokens), strict=True
    ):
        assert one.window_id == other.window_id
        np.testing.assert_allclose(one.targets.logits_TK, other.targets.logits_TK, atol=1e-4)


def test_bad_numbers_are_reported_with_the_documents() -> None:
    class Broken(FakeTeacher):
        def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
            return super().logits(hidden_ND) * torch.nan

    with pytest.raises(TeacherError, match=r"logits of documents s:\d, s:\d.*: .* found NaN"):
        score(Broken(), 100)


class SmallMemory(FakeTeacher):
    """A teacher whose device holds so many tokens at once."""

    def __init__(self, most_tokens: int, message: str = "") -> None:
        super().__init__()
        self.most_tokens = most_tokens
        self.message = message
        self.num_refused = 0

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        if input_ids_BL.numel() > self.most_tokens:
            self.num_refused += 1
            if self.message:
                raise RuntimeError(self.message)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore")
        return super().hidden_states(input_ids_BL)


def test_too_large_batches_are_halved_until_they_fit() -> None:
    teacher = SmallMemory(most_tokens=70)
    scorer = Scorer(teacher, TopK(k=8), SCHEMA, batch_tokens=1000)
    batches = list(scorer.score(token_windows()))
    places = sorted(place for batch in batches for place in batch.places)
    assert places == list(range(len(token_windows())))
    assert all(len(one.segments) * len(one.segments[0]) <= 70 for one in batches)
    assert scorer.batch_tokens < 1000
    # What did not fit once is not tried again.
    assert teacher.num_refused <= 5
    list(scorer.score(token_windows()))
    assert teacher.num_refused <= 5
    expected = score(FakeTeacher(), 1000)
    for window, other in zip(pack_windows(token_windows(), batches, SCHEMA), expected, strict=True):
        assert window.window_id == other.window_id
        np.testing.assert_allclose(window.targets.logits_TK, other.targets.logits_TK, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "MPS backend out of memory (MPS allocated: 18.1 GB)",
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_memory_that_others_than_pytorch_lack_is_halved_too(message: str) -> None:
    scorer = Scorer(SmallMemory(most_tokens=70, message=message), TopK(k=8), SCHEMA, 1000)
    places = [place for batch in scorer.score(token_windows()) for place in batch.places]
    assert sorted(places) == list(range(len(token_windows())))
    scorer = Scorer(SmallMemory(most_tokens=20, message=message), TopK(k=8), SCHEMA, 1000)
    with pytest.raises(TeacherError, match="enough memory on cpu for one of them"):
        list(scorer.score(token_windows()))


def test_another_error_is_no_lack_of_memory() -> None:
    teacher = SmallMemory(most_tokens=70, message="CUDA error: device-side assert triggered")
    with pytest.raises(RuntimeError, match="device-side assert"):
        list(Scorer(teacher, TopK(k=8), SCHEMA, 1000).score(token_windows()))


def test_memory_is_given_back_when_nothing_of_the_batch_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An exception's traceback keeps every variable of the forward pass that raised it."""
    held: list[weakref.ref[torch.Tensor]] = []

    class Holding(SmallMemory):
        def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
            activations = torch.ones(1000)
            held.append(weakref.ref(activations))
            return super().hidden_states(input_ids_BL)

    left = []

    def free(device: torch.device) -> None:
        left.append([one for one in held if one() is not None])

    monkeypatch.setattr(batches_module, "free_memory", free)
    list(Scorer(Holding(most_tokens=70), TopK(k=8), SCHEMA, 1000).score(token_windows()))
    assert left
    assert not any(left)


def test_memory_of_a_gpu_is_given_back_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append("cuda"))
    free_memory(torch.device("cpu"))
    assert not emptied
    free_memory(torch.device("cuda:1"))
    assert emptied == ["cuda"]


def test_targets_wait_for_the_end_of_their_unit_on_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied = []

    def cpu(selected: Selected) -> Selected:
        copied.append(len(selected))
        return selected

    monkeypatch.setattr(Selected, "cpu", cpu)
    for batch in Scorer(FakeTeacher(), TopK(k=8), SCHEMA, 100).score(token_windows()):
        assert copied.pop() == len(batch.selected)
        assert not copied


@pytest.mark.parametrize("bad", [-1, 300, 2**31 - 1])
def test_ids_that_the_teacher_does_not_know_never_reach_it(bad: int) -> None:
    """On a GPU they would end the process."""
    windows = token_windows()
    damaged_L = windows[2].input_ids_L.copy()
    damaged_L[4] = bad
    windows[2] = dataclasses.replace(windows[2], input_ids_L=damaged_L)

    class Watched(FakeTeacher):
        def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
            assert 0 <= input_ids_BL.min() <= input_ids_BL.max() < 300
            return super().hidden_states(input_ids_BL)

    name = windows[2].document_ids[0]
    message = rf"^document s:{name}, token 4: expected ids from 0 to 299, .*; found {bad}\."
    with pytest.raises(TeacherError, match=message):
        score(Watched(), 1000, windows)
    with pytest.raises(TeacherError, match=message):
        Watched().read(segments_of(windows[2]))


def test_a_tokenizer_with_more_ids_than_the_teacher_is_reported_with_the_documents(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        StoreError, match=r"document corpus\.jsonl:\d, token \d: .* the teacher fake"
    ):
        build(build_config(tmp_path), FakeTeacher(vocab_size=100))


def test_logits_too_far_apart_for_steps_are_reported_with_the_document() -> None:
    """Such a number is what some models rule ids out with, instead of -inf."""

    class Far(FakeTeacher):
        def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
            logits_NV = super().logits(hidden_ND)
            logits_NV[:, 1:] = torch.finfo(torch.float32).min
            return logits_NV

    windows = token_windows()
    schema = topk_schema()
    batches = Scorer(Far(), TopK(k=8), schema, 100).score(windows)
    with pytest.raises(TeacherError, match=r"logits of document s:0: .* Pass --values float32"):
        pack_windows(windows, batches, schema)
    score(Far(), 100)


def test_a_window_that_does_not_fit_alone_is_reported() -> None:
    scorer = Scorer(SmallMemory(most_tokens=20), TopK(k=8), SCHEMA, batch_tokens=1000)
    with pytest.raises(TeacherError, match=r"33 tokens: .* Tried to allocate 2\.00 GiB"):
        list(scorer.score(token_windows()))


def test_the_record_of_a_unit_says_which_batches_it_ran(tmp_path: Path) -> None:
    store = build(build_config(tmp_path, batch_tokens=64), SmallMemory(most_tokens=40)).store
    assert {entry.run["batch_tokens"] for entry in store.manifest.shards} == {32}


def test_documents_that_share_a_window_do_not_see_each_other() -> None:
    """Every target of a packed window is that of its document alone, up to rounding noise."""
    documents = [Document(content=t, document_id=str(i), source="s") for i, t in enumerate(TEXTS)]
    windows = Windowing(sequence_length=200, kind="pack").windows(
        documents, ByteTokenizer(), Counter()
    )
    packed = list(windows)
    assert [len(window.document_ids) for window in packed] == [2, 2, 1]
    alone = Windowing(sequence_length=200).windows(documents, ByteTokenizer(), Counter())
    teacher = FakeTeacher()
    expected = {one.document_ids[0]: one.targets for one in scored(teacher, list(alone))}
    for window in scored(teacher, packed):
        ends = np.cumsum(window.segment_lengths_S)
        for start, stop, name in zip([0, *ends[:-1]], ends, window.document_ids, strict=True):
            own = slice(start, stop - 1)
            np.testing.assert_array_equal(window.targets.ids_TK[own], expected[name].ids_TK)
            np.testing.assert_allclose(
                window.targets.logits_TK[own], expected[name].logits_TK, atol=1e-4
            )
            np.testing.assert_array_equal(
                window.targets.label_rank_T[own],  # type: ignore[index]
                expected[name].label_rank_T,
            )
        # Read as one sequence, later documents would be others.
        if len(ends) > 1:
            ids_1L = torch.from_numpy(window.input_ids_L.astype(np.int64))[None]
            seen_LV = teacher.logits(teacher.hidden_states(ids_1L)[0])
            later = slice(int(ends[0]), None)
            top_TK = seen_LV[:-1].topk(8).indices[later].numpy()
            assert (top_TK != window.targets.ids_TK[later]).mean() > 0.5


def test_listed_targets_are_those_of_their_positions() -> None:
    """What is scored at some positions is what is scored there when all are."""
    rng = np.random.default_rng(0)
    listed = []
    for window in token_windows():
        positions_T = np.flatnonzero(rng.random(len(window) - 1) < 0.4).astype(np.int32)
        mask_T = np.ones(len(positions_T), np.bool_)
        listed.append(dataclasses.replace(window, positions_T=positions_T, mask_T=mask_T))
    schema = dataclasses.replace(SCHEMA, positions="listed")
    scorer = Scorer(FakeTeacher(), TopK(k=8), schema, 100)
    some = pack_windows(listed, scorer.score(listed), schema)
    for one, every in zip(some, score(FakeTeacher(), 100), strict=True):
        at = one.positions_T
        assert np.array_equal(one.targets.ids_TK, every.targets.ids_TK[at])
        np.testing.assert_allclose(one.targets.logits_TK, every.targets.logits_TK[at], atol=1e-4)
        np.testing.assert_array_equal(
            one.targets.label_rank_T,
            every.targets.label_rank_T[at],  # type: ignore[index]
        )
