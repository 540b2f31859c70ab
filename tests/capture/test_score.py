from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softtargets.capture import TopK, Windowing, build
from softtargets.capture.corpus import Document
from softtargets.capture.score import Scorer, plan_batches
from softtargets.errors import TeacherError
from softtargets.window import TokenWindow, Window
from tests.fakes import TEXTS, ByteTokenizer, FakeTeacher, build_config
from tests.windows import topk_schema

SCHEMA = topk_schema(lossless=True)


def token_windows() -> list[TokenWindow]:
    documents = [Document(text=t, document_id=str(i), source="s") for i, t in enumerate(TEXTS)]
    return list(Windowing(sequence_length=33).windows(documents, ByteTokenizer(), Counter()))


def score(teacher: FakeTeacher, batch_tokens: int) -> list[Window]:
    scorer = Scorer(teacher, TopK(k=8), SCHEMA, batch_tokens)
    batches = scorer.score(token_windows())
    scored = {place: window for batch in batches for place, window in batch.pack(SCHEMA)}
    return [scored[place] for place in range(len(scored))]


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
    assert all(len(one.windows) * len(one.windows[0]) <= 70 for one in batches)
    assert scorer.batch_tokens < 1000
    # What did not fit once is not tried again.
    assert teacher.num_refused <= 5
    list(scorer.score(token_windows()))
    assert teacher.num_refused <= 5
    expected = score(FakeTeacher(), 1000)
    for batch in batches:
        for place, window in batch.pack(SCHEMA):
            assert window.window_id == expected[place].window_id
            np.testing.assert_allclose(
                window.targets.logits_TK, expected[place].targets.logits_TK, atol=1e-4
            )


def test_a_window_that_does_not_fit_alone_is_reported() -> None:
    scorer = Scorer(SmallMemory(most_tokens=20), TopK(k=8), SCHEMA, batch_tokens=1000)
    with pytest.raises(
        TeacherError, match=r"a window of 33 tokens: .* Tried to allocate 2\.00 GiB"
    ):
        list(scorer.score(token_windows()))


def test_the_record_of_a_unit_says_which_batches_it_ran(tmp_path: Path) -> None:
    store = build(build_config(tmp_path, batch_tokens=64), SmallMemory(most_tokens=40)).store
    assert {entry.run["batch_tokens"] for entry in store.manifest.shards} == {32}
