"""A teacher that lists its likeliest ids, as one behind a server does, and has no logits.

All of it is in this file: the package knows nothing of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softtargets import SoftTargetDataset, collate, distillation_loss
from softtargets.capture import (
    Abilities,
    Hybrid,
    Keep,
    Pins,
    Segment,
    Selected,
    Teacher,
    TopK,
    TopP,
    build,
    check_ids,
    estimate,
    rescore,
    select_listed,
)
from softtargets.errors import InputError, TeacherError
from softtargets.store import Store, verify
from tests.capture.teacher_suite import TeacherSuite
from tests.fakes import TEXTS, ByteTokenizer, build_config


class Bigrams(Teacher):
    """How often a byte follows another in the sample texts; unseen pairs are rare, and not none."""

    name = "bigrams"
    vocab_size = 256
    tokenizer = ByteTokenizer()
    abilities = Abilities(largest_k=20, batch_invariant=True)

    def __init__(self) -> None:
        self.table: dict[int, dict[int, float]] = {}

    def describe(self) -> dict[str, Any]:
        return {
            "architecture": "Bigrams",
            "weights_sha256": "a" * 64,
            "config_sha256": "c" * 64,
            "revision": None,
            "dtype": "float32",
            "attention": "none",
        }

    def load(self) -> None:
        counts = Counter(pair for text in TEXTS for pair in pairwise(text))
        for byte in range(256):
            own = [1 + 50 * counts[chr(byte), chr(other)] for other in range(256)]
            total = math.log(sum(own))
            self.table[byte] = {other: math.log(n) - total for other, n in enumerate(own)}

    def capture(self, segments: Sequence[Segment], keep: Keep) -> Selected:
        check_ids(segments, self.vocab_size, self.name)
        ids, logprobs, label_logprobs, ranks = [], [], [], []
        for segment in segments:
            read_T = segment.input_ids_L[segment.positions_T]
            for byte, label in zip(read_T.tolist(), segment.label_ids_T.tolist(), strict=True):
                answer = self.table[byte]
                best = sorted(answer, key=lambda one: (-answer[one], one))[: keep.selection.k]
                ids.append(best)
                logprobs.append([answer[one] for one in best])
                label_logprobs.append(answer[label])
                ranks.append(sum(other > answer[label] for other in answer.values()))
        return select_listed(
            torch.tensor(ids),
            torch.tensor(logprobs),
            label_logprobs_N=torch.tensor(label_logprobs) if keep.label_logits else None,
            label_ranks_N=torch.tensor(ranks) if keep.label_logits else None,
        )


class Firm(TopK):
    """A selection with a rule of its own, which lists cannot follow."""


class TestBigrams(TeacherSuite):
    def make(self, directory: Path) -> Teacher:
        return Bigrams()

    def damage(self, teacher: Teacher) -> None:
        assert isinstance(teacher, Bigrams)
        teacher.table[ord("q")] = dict.fromkeys(range(256), math.nan)


def build_toy(directory: Path, **changes: Any) -> Store:
    options: dict[str, Any] = {"selection": TopK(k=8), "temperatures": (1.0,)}
    return build(build_config(directory, **(options | changes)), Bigrams()).store


@pytest.mark.slow
def test_it_is_built_verified_streamed_and_learned_from(tmp_path: Path) -> None:
    store = build_toy(tmp_path, values="float32")
    assert verify(store.root).is_sound
    teacher = Bigrams()
    teacher.load()
    logits_VV = torch.tensor([list(teacher.table[byte].values()) for byte in range(256)])
    dataset = SoftTargetDataset(store.root, shuffle=True, batch_size=4)
    batches = list(dataset)
    assert sum(len(batch["window_id"]) for batch in batches) == len(store)
    for batch in batches:
        logits_BLV = logits_VV[batch["input_ids"]]
        assert distillation_loss(logits_BLV, batch) < 1e-5
        assert distillation_loss(logits_BLV.roll(1, dims=1), batch) > 0.1


@pytest.mark.slow
def test_steps_serve_it_too(tmp_path: Path) -> None:
    store = build_toy(tmp_path)
    assert verify(store.root).is_sound
    batch = collate(list(store)[:3])
    assert batch.soft_targets(1.0).tail_logmass[batch.soft_targets(1.0).mask].max() < 0


def test_it_is_planned(tmp_path: Path) -> None:
    """Capturing is all that it can be timed by."""
    config = build_config(tmp_path, selection=TopK(k=8), temperatures=(1.0,))
    found = estimate(config, Bigrams(), sample_windows=5)
    assert found.online_tokens_per_second == found.tokens_per_second


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection": Hybrid(k=4)}, "--select: expected topk without --pin, .* found hybrid"),
        ({"selection": TopP(k=4)}, "--select: .* found topp"),
        ({"selection": Firm(k=4)}, "--select: "),
        ({"selection": TopK(k=4, pins=Pins(label=True))}, "--select: "),
        ({"temperatures": (1.0, 2.0)}, "--temperature: expected 1 alone, .* found 1, 2"),
    ],
)
def test_what_its_lists_do_not_tell_is_refused_before_the_corpus_is_read(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_toy(tmp_path, **changes)
    assert not (tmp_path / "store").exists()


def test_hidden_states_are_refused_before_it_is_loaded(tmp_path: Path) -> None:
    teacher = Bigrams()
    config = build_config(tmp_path, selection=Hybrid(), temperatures=(1.0, 2.0), hidden_states=True)
    message = "--select topk --top-k 16 and --temperature 1 and no --hidden-states"
    with pytest.raises(InputError, match=message):
        build(config, teacher)
    assert not teacher.table


def test_it_has_no_output_head() -> None:
    with pytest.raises(TeacherError, match="bigrams: expected a teacher that has an output head"):
        Bigrams().output_head()


def test_it_cannot_be_rescored(tmp_path: Path) -> None:
    store = build_toy(tmp_path)
    with pytest.raises(InputError, match="--rescore: expected a teacher that runs in this process"):
        rescore(store, Bigrams(), 3)


@pytest.mark.parametrize(
    "logprobs",
    [
        [0.0, -1.0],
        [-math.inf, -math.inf],
        [math.nan, -1.0],
        [math.inf, -1.0],
        [-0.1, math.nan],
    ],
)
def test_lists_that_are_no_distributions_are_found(logprobs: list[float]) -> None:
    ids_NK = torch.tensor([[3, 5], [3, 5]])
    sound = [-1.0, -2.0]
    select_listed(ids_NK, torch.tensor([sound, sound])).check()
    with pytest.raises(TeacherError, match="at 1 of 2 positions"):
        select_listed(ids_NK, torch.tensor([sound, logprobs])).check()


def test_lists_may_come_in_any_order() -> None:
    """Equal ones go by rising id; all mass may be in a list, up to rounding."""
    half = math.log(0.5)
    found = select_listed(torch.tensor([[9, 2, 4], [7, 8, 1]]), torch.tensor(
        [[half, half, -math.inf], [-3.0, -1.0, -2.0]]
    ))  # fmt: skip
    assert found.ids_NK.tolist() == [[2, 9, 4], [8, 1, 7]]
    assert found.num_entries_N.tolist() == [2, 3]
    expected = [0, 1 - np.exp([-1, -2, -3]).sum()]
    np.testing.assert_allclose(found.tail_mass_NG[:, 0], expected, atol=1e-6)
