"""What every teacher promises; each one's tests inherit `TeacherSuite`."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softtargets.capture import (
    Hybrid,
    Pins,
    Sampled,
    Teacher,
    Threshold,
    TopK,
    TopP,
    Windowing,
    build,
)
from softtargets.capture.abilities import nearest
from softtargets.capture.documents import Document
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Keep
from softtargets.capture.score import Scorer, check_selected, pack_windows
from softtargets.capture.segments import segments_of
from softtargets.errors import InputError, TeacherError
from softtargets.store import verify
from softtargets.targets import SoftTargets
from softtargets.window import TokenWindow, Window
from tests.fakes import TEXTS, build_config
from tests.windows import topk_schema

K = 4
KEEP = Keep(selection=TopK(k=K), temperatures=(1.0,))
DEMANDING = (
    KEEP,
    Keep(selection=TopK(k=K), temperatures=(1.0, 2.0)),
    Keep(selection=TopK(k=K, pins=Pins(label=True)), temperatures=(1.0,)),
    Keep(selection=TopP(k=K), temperatures=(1.0,)),
    Keep(selection=Hybrid(k=K), temperatures=(1.0,)),
    Keep(selection=Threshold(), temperatures=(1.0, 0.5)),
    Keep(selection=TopK(k=K), temperatures=(1.0,), hidden_states=True),
    Keep(selection=Sampled(), temperatures=(1.0, 2.0), hidden_states=True),
)
"""What some teachers can tell, and some cannot."""
NOISE = 1e-4
"""By how much logits may differ between batches."""


class TeacherSuite:
    """Tests of a teacher; a subclass makes it."""

    def make(self, directory: Path) -> Teacher:
        """Return a new teacher, which is not loaded."""
        raise NotImplementedError

    def damage(self, teacher: Teacher) -> None:
        """Let a loaded teacher answer NaN after the letter q."""
        raise NotImplementedError

    @pytest.fixture
    def teacher(self, tmp_path: Path) -> Teacher:
        (tmp_path / "teacher").mkdir()
        teacher = self.make(tmp_path / "teacher")
        teacher.load()
        return teacher

    def test_its_description_is_canonical_json_and_needs_no_weights(self, tmp_path: Path) -> None:
        """Keys are texts and numbers finite, so that any language computes the same fingerprint."""
        teacher = self.make(tmp_path)
        described = teacher.describe()
        assert json.loads(json.dumps(described, allow_nan=False)) == described
        assert described == teacher.describe() == self.make(tmp_path).describe()
        teacher.load()
        assert described == teacher.describe()
        assert teacher.name
        assert teacher.vocab_size >= teacher.tokenizer.vocab_size > 0

    def test_loading_again_changes_nothing(self, teacher: Teacher) -> None:
        segments = segments_of(*windows(teacher))
        before = teacher.capture(segments, KEEP)
        teacher.load()
        assert_same(before, teacher.capture(segments, KEEP))

    def test_it_answers_the_same_each_time(self, teacher: Teacher) -> None:
        segments = segments_of(*windows(teacher))
        assert_same(teacher.capture(segments, KEEP), teacher.capture(segments, KEEP))

    def test_a_worker_answers_the_same(self, teacher: Teacher) -> None:
        segments = segments_of(*windows(teacher))
        other: Teacher = pickle.loads(pickle.dumps(teacher.for_worker(1)))
        assert other.describe() == teacher.describe()
        other.load()
        assert_same(teacher.capture(segments, KEEP), other.capture(segments, KEEP))

    def test_targets_are_a_distribution_of_what_follows(self, teacher: Teacher) -> None:
        segments = segments_of(*windows(teacher))
        selected = teacher.capture(segments, KEEP)
        selected.check()
        assert len(selected) == sum(len(segment.positions_T) for segment in segments)
        found = selected.numpy(topk_schema(lossless=True))
        assert (np.diff(found.logits_TK, axis=1) <= 0).all()
        mass_T = np.exp(found.logprobs_TK()).sum(axis=1) + found.tail_mass_TG[:, 0]
        np.testing.assert_allclose(mass_T, 1, atol=1e-5)
        assert found.ids_TK.min() >= 0
        assert found.ids_TK.max() < teacher.vocab_size
        labels_T = np.concatenate([segment.label_ids_T for segment in segments])
        assert_labels(found, labels_T)

    def test_other_segments_in_the_batch_change_rounding_noise_only(self, teacher: Teacher) -> None:
        """Nor does padding leak, as the segments differ in length."""
        segments = segments_of(*windows(teacher, lengths=(40, 7)))
        assert len({len(segment) for segment in segments}) > 3
        alone = [teacher.capture([segment], KEEP) for segment in segments]
        assert_near(Selected.concatenate(alone), teacher.capture(segments, KEEP))
        backwards = Selected.concatenate(alone[::-1])
        assert_near(backwards, teacher.capture(segments[::-1], KEEP))

    def test_the_size_of_batches_changes_rounding_noise_only(self, teacher: Teacher) -> None:
        expected = scored(teacher, 1)
        for batch_tokens in (50, 10_000):
            for one, other in zip(expected, scored(teacher, batch_tokens), strict=True):
                assert one.window_id == other.window_id
                np.testing.assert_allclose(
                    one.targets.logits_TK, other.targets.logits_TK, atol=NOISE
                )

    def test_what_follows_a_target_does_not_change_it(self, teacher: Teacher) -> None:
        """Neither a later token of the document, nor another document of the window."""
        (segment,) = segments_of(windows(teacher)[0])
        changed_L = segment.input_ids_L.copy()
        changed_L[-1] = ord("?")
        changed = dataclasses.replace(segment, input_ids_L=changed_L)
        assert_near(teacher.capture([segment], KEEP), teacher.capture([changed], KEEP))
        changed_L[0] = ord("Q")
        other = teacher.capture([dataclasses.replace(segment, input_ids_L=changed_L)], KEEP)
        assert (other.logits_NK[0] - teacher.capture([segment], KEEP).logits_NK[0]).abs().max() > 0

    def test_only_listed_positions_are_captured(self, teacher: Teacher) -> None:
        (segment,) = segments_of(windows(teacher)[0])
        chosen = slice(3, None, 5)
        some = dataclasses.replace(
            segment,
            positions_T=segment.positions_T[chosen],
            label_ids_T=segment.label_ids_T[chosen],
        )
        every = teacher.capture([segment], KEEP)
        expected = Selected.concatenate(
            [every.slice(place, place + 1) for place in some.positions_T.tolist()]
        )
        assert_near(expected, teacher.capture([some], KEEP))

    def test_numbers_that_are_not_finite_are_refused_with_the_document(
        self, teacher: Teacher
    ) -> None:
        segments = segments_of(*windows(teacher, texts=("abc", "xyq?", "pst")))
        check_selected(teacher.capture(segments, KEEP), segments)
        self.damage(teacher)
        with pytest.raises(TeacherError, match=r"^logits of document s:1: .* at 1 of 7 positions"):
            check_selected(teacher.capture(segments, KEEP), segments)
        with pytest.raises(TeacherError, match="logits of document s:1: "):
            scored(teacher, 100, texts=("abc", "xyq?", "pst"))

    @pytest.mark.parametrize("bad", [-1, 2**31 - 1])
    def test_ids_that_it_does_not_know_are_refused_with_the_document(
        self, teacher: Teacher, bad: int
    ) -> None:
        (segment,) = segments_of(windows(teacher)[1])
        damaged_L = segment.input_ids_L.copy()
        damaged_L[4] = bad
        with pytest.raises(TeacherError, match=rf"^document s:1, token 4: .* found {bad}\."):
            teacher.capture([dataclasses.replace(segment, input_ids_L=damaged_L)], KEEP)

    @pytest.mark.parametrize("k", [0, 1_000_000])
    def test_a_selection_that_does_not_fit_is_refused(self, teacher: Teacher, k: int) -> None:
        teacher.check(KEEP)
        with pytest.raises(InputError, match=r"^--top-k: "):
            teacher.check(dataclasses.replace(KEEP, selection=TopK(k=k)))

    def test_what_it_says_it_can_tell_it_tells(self, teacher: Teacher) -> None:
        abilities = teacher.abilities
        segments = segments_of(*windows(teacher)[:2])
        for keep in DEMANDING:
            if nearest(keep, abilities) == keep:
                teacher.check(keep)
                selected = teacher.capture(segments, keep)
                selected.check()
                assert selected.tail_mass_NG.shape[1:] == (len(keep.temperatures),)
                assert (selected.hidden_ND is not None) == keep.hidden_states

    def test_what_it_cannot_tell_is_refused_with_what_it_can(self, teacher: Teacher) -> None:
        for keep in DEMANDING:
            near = nearest(keep, teacher.abilities)
            teacher.check(near)
            assert nearest(near, teacher.abilities) == near
            if near != keep:
                with pytest.raises(InputError, match=r"^--[a-z-]+: .* Pass "):
                    teacher.check(keep)

    def test_the_longest_list_is_that_which_it_states(self, teacher: Teacher) -> None:
        largest = teacher.abilities.largest_k
        if largest is None:
            return
        (segment,) = segments_of(windows(teacher)[0])
        keep = dataclasses.replace(KEEP, selection=TopK(k=largest))
        assert (teacher.capture([segment], keep).num_entries_N == largest).all()
        with pytest.raises(InputError, match=f"--top-k: .* Pass --select topk --top-k {largest}"):
            teacher.check(dataclasses.replace(KEEP, selection=TopK(k=largest + 1)))

    def test_batches_change_no_bit_if_it_says_so(self, teacher: Teacher) -> None:
        if not teacher.abilities.batch_invariant:
            return
        segments = segments_of(*windows(teacher, lengths=(40, 7)))
        alone = [teacher.capture([segment], KEEP) for segment in segments]
        assert_same(Selected.concatenate(alone), teacher.capture(segments, KEEP))

    def test_a_build_is_sound_and_the_same_again(self, teacher: Teacher, tmp_path: Path) -> None:
        stores = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            config = build_config(
                tmp_path / name, selection=TopK(k=K), temperatures=(1.0,), values="float32"
            )
            stores.append(build(config, teacher).store)
            assert verify(stores[-1].root).is_sound
        assert stores[0].fingerprint == stores[1].fingerprint
        shards = [[shard.sha256 for shard in store.manifest.shards] for store in stores]
        assert shards[0] == shards[1]


def windows(
    teacher: Teacher, *, texts: tuple[str, ...] = TEXTS, lengths: tuple[int, ...] = (200,)
) -> list[TokenWindow]:
    documents = [Document(content=t, document_id=str(i), source="s") for i, t in enumerate(texts)]
    return [
        window
        for length in lengths
        for window in Windowing(sequence_length=length).windows(
            documents, teacher.tokenizer, Counter()
        )
    ]


def scored(teacher: Teacher, batch_tokens: int, texts: tuple[str, ...] = TEXTS) -> list[Window]:
    schema = dataclasses.replace(topk_schema(lossless=True), temperatures=(1.0,))
    own = windows(teacher, texts=texts, lengths=(33,))
    scorer = Scorer(teacher, TopK(k=K), schema, batch_tokens)
    return pack_windows(own, scorer.score(own), schema)


def assert_labels(found: SoftTargets, labels_T: np.ndarray) -> None:
    """Check that a label among the entries has its entry's logit, and the rank of its place."""
    assert found.label_logit_T is not None
    assert found.label_rank_T is not None
    is_label_TK = found.ids_TK == labels_T[:, None]
    is_kept_T = is_label_TK.any(axis=1)
    np.testing.assert_array_equal(found.logits_TK[is_label_TK], found.label_logit_T[is_kept_T])
    assert (found.label_rank_T[is_kept_T] < K).all()
    assert (found.label_logit_T[~is_kept_T] <= found.logits_TK[~is_kept_T, -1]).all()


def tensors(selected: Selected) -> dict[str, torch.Tensor]:
    found: dict[str, Any] = {
        field.name: getattr(selected, field.name) for field in dataclasses.fields(selected)
    }
    for name in ("others", "states_ND", "token_states_MD"):
        found |= found.pop(name)
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def assert_same(one: Selected, other: Selected) -> None:
    own, others = tensors(one), tensors(other)
    assert own.keys() == others.keys()
    for name, tensor in own.items():
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, others[name]), name


def assert_near(one: Selected, other: Selected) -> None:
    assert len(one) == len(other)
    torch.testing.assert_close(one.logits_NK, other.logits_NK, atol=NOISE, rtol=0)
    torch.testing.assert_close(one.tail_mass_NG, other.tail_mass_NG, atol=NOISE, rtol=0)
    if one.label_logit_N is not None:
        torch.testing.assert_close(one.label_logit_N, other.label_logit_N, atol=NOISE, rtol=0)
