from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softtargets.capture import TopK, Windowing, build
from softtargets.capture.records import Document
from softtargets.capture.score import Scorer, pack_windows, plan_batches
from softtargets.errors import TeacherError
from softtargets.window import TokenWindow, Window
from tests.fakes import TEXTS, ByteTokenizer, FakeTeacher, build_config
from tests.windows import topk_schema

SCHEMA = topk_schema(lossless=True)


def token_windows() -> list[TokenWindow]:
    documents = [Document(content=t, document_id=str(i), source="s") for i, t in enumerate(TEXTS)]
    return list(Windowing(sequence_length=33).windows(documents, ByteTokenizer(), Counter()))


def score(teacher: FakeTeacher, batch_tokens: int) -> list[Window]:
    return scored(teacher, token_windows(), batch_tokens)


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


def test_windows_of_like_length_share_a_batch() -> None:
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

    with pytest.raises(TeacherError, match=r"logits of documents s:\d.*: .* found NaN"):
        score(Broken(), 100)


class SmallMemory(FakeTeacher):
    """A teacher whose device holds so many tokens at once."""

    def __init__(self, most_tokens: int) -> None:
        super().__init__()
        self.most_tokens = most_tokens
        self.num_refused = 0

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        if input_ids_BL.numel() > self.most_tokens:
            self.num_refused += 1
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
