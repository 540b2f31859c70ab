from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from softtargets import (
    IGNORE_INDEX,
    Batch,
    SoftTargetDataset,
    Store,
    collate,
    distillation_loss,
    repack,
    student_inputs,
)
from softtargets.capture import Corpus, TeacherConfig, TransformersTeacher, Windowing, build
from softtargets.errors import InputError
from tests.fakes import TEXTS, build_config, build_store, write_corpus
from tests.golden import GOLDEN
from tests.windows import KINDS, make_window


def make_batch(rng: np.random.Generator, kind: str, lengths: list[int]) -> Batch:
    # At the larger scale there are many escapes, and nothing is left to draw.
    scale = 6.0 if kind == "hybrid" else 60.0
    windows = [
        make_window(rng, KINDS[kind], num_tokens=length, scale=scale)[0] for length in lengths
    ]
    return collate(windows)


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.sampled_from(["topk", "hybrid", "topk-lossless", "assistant-tokens"]),
    st.lists(st.integers(2, 30), min_size=1, max_size=6),
    st.integers(2, 40),
    st.one_of(st.none(), st.integers(2, 40)),
    st.integers(0, 99),
)
def test_every_token_keeps_its_target(
    kind: str, lengths: list[int], row_tokens: int, piece_tokens: int | None, seed: int
) -> None:
    piece_tokens = None if piece_tokens is None else min(piece_tokens, row_tokens)
    batch = make_batch(np.random.default_rng(seed), kind, lengths)
    packed = repack(batch, row_tokens, piece_tokens)
    places = {window_id: row for row, window_id in enumerate(batch["window_id"])}
    found, expected = packed.soft_targets(1.0), batch.soft_targets(1.0)
    arrays = [(packed[name], batch[name]) for name in ("input_ids", "target_mask", "labels")]
    for name in ("ids", "logprobs", "tail_logmass", "sample_ids", "sample_weights"):
        if getattr(found, name) is not None:
            arrays.append((getattr(found, name), getattr(expected, name)))
    seen = []
    for row, pieces in enumerate(packed["pieces"]):
        filled = sum(piece.num_tokens for piece in pieces)
        assert filled <= row_tokens
        assert packed.token_mask().long()[row].tolist() == [1] * filled + [0] * (
            packed["input_ids"].shape[1] - filled
        )
        assert not packed["target_mask"][row, filled:].any()
        assert (packed["labels"][row, filled:] == IGNORE_INDEX).all()
        for piece in pieces:
            assert piece.num_tokens <= (piece_tokens or row_tokens)
            there, window = piece.column, places[piece.window_id]
            seen += [(window, piece.start + token) for token in range(piece.num_tokens)]
            for new, old in arrays:
                own = new[row, there : there + piece.num_tokens]
                old_own = old[window, piece.start : piece.start + piece.num_tokens]
                if old is batch["labels"]:
                    assert torch.equal(own[1:], old_own[1:])
                    assert own[0] == IGNORE_INDEX
                elif old is batch["target_mask"]:
                    assert torch.equal(own[:-1], old_own[:-1])
                    assert not own[-1]
                else:
                    assert torch.equal(own, old_own)
            segments = packed["segment_ids"][row, there : there + piece.num_tokens]
            others = packed["segment_ids"][row, : piece.num_tokens + there]
            assert not set(others[:there].tolist()) & set(segments.tolist())
            position = packed["position_ids"][row, there : there + piece.num_tokens]
            starts = torch.ones(piece.num_tokens, dtype=torch.bool)
            starts[1:] = segments[1:] != segments[:-1]
            assert (position[starts] == 0).all()
            assert (position[1:][~starts[1:]] == position[:-1][~starts[1:]] + 1).all()
    assert sorted(seen) == [(row, at) for row, n in enumerate(lengths) for at in range(n)]


def test_documents_of_a_window_stay_apart(tmp_path: Path) -> None:
    texts = [text[:length] for text, length in zip(TEXTS * 3, range(5, 25), strict=False)]
    corpus = Corpus(paths=(write_corpus(tmp_path / "short.jsonl", texts),))
    windowing = Windowing(kind="pack", sequence_length=24)
    store = build_store(tmp_path, corpus=corpus, windowing=windowing)
    windows = list(store)
    assert any(len(window.segment_lengths_S) > 1 for window in windows)
    for row, batch in zip(
        windows, SoftTargetDataset(store, batch_size=1, row_tokens=10), strict=True
    ):
        documents = np.repeat(np.arange(len(row.segment_lengths_S)), row.segment_lengths_S)
        for number, pieces in enumerate(batch["pieces"]):
            mask = batch.causal_mask()[number, 0]
            for piece in pieces:
                own = slice(piece.column, piece.column + piece.num_tokens)
                same = documents[piece.start : piece.start + piece.num_tokens]
                expected = np.tril(same[:, None] == same[None, :])
                assert np.array_equal(mask[own, own], expected)
                assert not mask[own, : piece.column].any()


@pytest.fixture(scope="module")
def teacher_store(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path) -> Store:
    directory = tmp_path_factory.mktemp("taught")
    corpus = Corpus(paths=(write_corpus(directory / "corpus.jsonl", TEXTS),))
    config = build_config(directory, corpus=corpus)
    return build(
        config, TransformersTeacher(TeacherConfig(name=str(tiny_teacher), dtype="float32"))
    ).store


def loss_of(student: Any, batch: Batch, **inputs: Any) -> float:
    with torch.inference_mode():
        logits = student(**{"input_ids": batch["input_ids"], **inputs}).logits
    return float(distillation_loss(logits, batch))


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_documents_that_share_a_row_are_read_apart_or_not_at_all(
    teacher_store: Store, tiny_teacher: Path, attention: str
) -> None:
    student = AutoModelForCausalLM.from_pretrained(
        tiny_teacher, dtype="float32", attn_implementation=attention
    )
    [batch] = SoftTargetDataset(teacher_store, batch_size=len(teacher_store), row_tokens=50)
    nothing = loss_of(student, batch, **student_inputs(batch))
    assert nothing < 1e-3
    positions = batch["position_ids"]
    added = batch.causal_mask(torch.float32)
    assert loss_of(student, batch, attention_mask=added, position_ids=positions) < 1e-3
    # What a mask of padding would do, and that it is not to be had.
    padding = batch.token_mask().long()
    for others in ({}, {"position_ids": positions}):
        assert loss_of(student, batch, attention_mask=padding, **others) > 10 * nothing
        with pytest.raises(InputError, match=r"student\(\*\*student_inputs\(batch\)\)"):
            loss_of(student, batch, attention_mask=batch["attention_mask"], **others)
    picked = {name: batch[name] for name in batch if name in ("input_ids", "attention_mask")}
    with pytest.raises(InputError, match="documents share rows"):
        student(**picked)


def test_a_student_like_the_teacher_has_nothing_to_learn_from_packed_rows(
    teacher_store: Store, tiny_teacher: Path
) -> None:
    student = AutoModelForCausalLM.from_pretrained(tiny_teacher, dtype="float32")
    [batch] = SoftTargetDataset(teacher_store, batch_size=len(teacher_store), row_tokens=50)
    assert max(len(pieces) for pieces in batch["pieces"]) >= 3

    def loss(batch: Batch, mask: torch.Tensor) -> float:
        return loss_of(student, batch, attention_mask=mask, position_ids=batch["position_ids"])

    nothing = loss(batch, batch.causal_mask())
    assert nothing < 1e-3
    # Negative controls: rows read as one document, and targets that slip by one.
    assert loss(batch, batch.token_mask().long()) > 10 * nothing
    shifted = Batch({**batch, "target_mask": batch["target_mask"].roll(1, dims=1)})
    for name in ("num_entries", "top_logit", "tail_mass", "id_plane_0", "id_plane_1", "steps"):
        shifted[name] = batch[name].roll(1, dims=1)
    assert loss(shifted, batch.causal_mask()) > 100 * nothing


def test_resuming_and_ranks_are_those_of_the_windows(store: Store) -> None:
    options: dict[str, Any] = {"shuffle": True, "batch_size": 4, "row_tokens": 40}
    whole = [batch["window_id"] for batch in SoftTargetDataset(store, **options)]
    first = SoftTargetDataset(store, **options)
    batches = iter(first)
    next(batches)
    second = SoftTargetDataset(store, **options)
    second.load_state_dict(first.state_dict(next(batches)))
    assert [batch["window_id"] for batch in second] == whole[2:]
    found = [one for rows in whole for row in rows for one in row.split()]
    assert sorted(found) == sorted(window.window_id for window in store)


def test_a_batch_of_padding_alone_keeps_a_row(store: Store) -> None:
    # More ranks than windows in the last step.
    dataset = SoftTargetDataset(
        store, batch_size=1, rank=len(store), world_size=len(store) + 1, row_tokens=8
    )
    [batch] = dataset
    assert not batch["target_mask"].any()
    assert set(batch["window_id"]) == {""}
    assert (batch["labels"] == IGNORE_INDEX).all()


@pytest.mark.parametrize(("row_tokens", "piece_tokens"), [(1, None), (8, 9), (8, 1)])
def test_lengths_that_do_not_fit_are_refused(
    store: Store, row_tokens: int, piece_tokens: int | None
) -> None:
    batch = collate(list(Store.open(GOLDEN / "topk-1.1" / "store")))
    with pytest.raises(InputError, match="2 <= piece_tokens <= row_tokens"):
        repack(batch, row_tokens, piece_tokens)
    with pytest.raises(InputError, match=r"SoftTargetDataset, (row|piece)_tokens"):
        SoftTargetDataset(store, batch_size=2, row_tokens=row_tokens, piece_tokens=piece_tokens)
    with pytest.raises(InputError, match="packed before"):
        repack(repack(batch, 8), 8)
