from __future__ import annotations

import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from softtargets import SoftTargetDataset, Store
from softtargets.capture import TeacherConfig, TransformersTeacher, build
from softtargets.errors import IdentityError, InputError, TemperatureError
from softtargets.tokenizer import tokens_by_id
from softtargets.window import hash_window
from tests.fakes import build_config
from tests.golden import write_store
from tests.store.test_store import edit_manifest
from tests.windows import make_window, topk_schema


@pytest.mark.parametrize(("rank", "world_size"), [(1, 1), (-1, 2), (0, 0)])
def test_a_rank_outside_the_world_is_refused(store: Store, rank: int, world_size: int) -> None:
    with pytest.raises(InputError, match="0 <= rank < world_size"):
        SoftTargetDataset(store, rank=rank, world_size=world_size)


@pytest.mark.parametrize("options", [{"world_size": 2}, {"rank": 0}, {"rank": 1}])
def test_half_of_rank_and_world_size_is_refused(store: Store, options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected both or neither"):
        SoftTargetDataset(store, **options)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0}, {"shuffle_groups": 0}, {"num_threads": -1}, {"stall_timeout": 0},
        {"tail": "wrap"}, {"on_error": "ignore"},
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_refused(store: Store, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InputError, match=f"SoftTargetDataset, {name}"):
        SoftTargetDataset(store, **options)
    with pytest.raises(InputError, match="found both"):
        SoftTargetDataset(store, batch_size=2, global_batch_size=2)


def test_repr_and_fingerprint(store: Store) -> None:
    dataset = SoftTargetDataset(store, shuffle=True)
    assert re.search(r"Store\(.*shuffle=True, seed=0, rank=0, world_size=1", repr(dataset))
    assert dataset.fingerprint == store.fingerprint


@pytest.mark.slow
def test_what_is_left_open_ends_with_the_interpreter(store: Store) -> None:
    code = f"""
from softtargets import SoftTargetDataset
stream = iter(SoftTargetDataset({str(store.root)!r}, batch_size=2, shuffle_groups=1))
next(stream)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")


def test_no_thread_is_left(store: Store) -> None:
    before = threading.active_count()
    dataset = SoftTargetDataset(store, num_threads=2, shuffle_groups=1)
    for window in dataset:
        assert window.window_id
        assert threading.active_count() > before
        break
    assert threading.active_count() == before
    stream = iter(dataset)
    next(stream)
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt())  # type: ignore[attr-defined]
    assert threading.active_count() == before
    list(dataset)
    assert threading.active_count() == before


def test_fewer_entries_are_delivered_if_asked(store: Store) -> None:
    (whole,) = SoftTargetDataset(store, batch_size=len(store))
    (fewer,) = SoftTargetDataset(store, batch_size=len(store), top_k=3)
    for temperature in store.targets.temperatures:
        targets, own = whole.soft_targets(temperature), fewer.soft_targets(temperature)
        assert own.ids.shape[-1] == 3
        assert torch.equal(own.ids, targets.ids[..., :3])
        torch.testing.assert_close(own.logprobs, targets.logprobs[..., :3], atol=2e-5, rtol=1e-5)
        tail = 1 - targets.logprobs[..., :3].exp().sum(-1)
        is_target = own.mask
        torch.testing.assert_close(
            own.tail_logmass.exp()[is_target], tail[is_target], atol=1e-5, rtol=0
        )
    with pytest.raises(InputError, match="top_k: expected"):
        SoftTargetDataset(store, top_k=9)


@pytest.mark.parametrize("top_k", [None, 3])
def test_chosen_temperatures_are_delivered_if_asked(store: Store, top_k: int | None) -> None:
    (whole,) = SoftTargetDataset(store, batch_size=len(store), top_k=top_k)
    (chosen,) = SoftTargetDataset(store, batch_size=len(store), top_k=top_k, temperatures=[2.0])
    assert chosen["tail_mass"].shape == (*whole["tail_mass"].shape[:2], 1)
    own, targets = chosen.soft_targets(2.0), whole.soft_targets(2.0)
    for name in ("ids", "logprobs", "tail_logmass"):
        assert torch.equal(getattr(own, name), getattr(targets, name))
    with pytest.raises(TemperatureError, match="temperatures stored: 2; found"):
        chosen.soft_targets(1.0)
    with pytest.raises(InputError, match="temperatures stored: 1, 2; found"):
        SoftTargetDataset(store, temperatures=[3.0])


@pytest.mark.slow
def test_another_tokenizer_is_refused(tmp_path: Path, tiny_teacher: Path) -> None:
    teacher = TransformersTeacher(TeacherConfig(name=str(tiny_teacher), dtype="float32"))
    store = build(build_config(tmp_path), teacher).store
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher)
    SoftTargetDataset(store, tokenizer=tokenizer)
    # What padding was asked for last does not make it another one.
    tokenizer(["a b", "c"], truncation=True, max_length=1)
    SoftTargetDataset(store, tokenizer=tokenizer)
    # Nor do tokens of its own after the teacher's.
    tokenizer.add_tokens(["brillig"])
    SoftTargetDataset(store, tokenizer=tokenizer)
    alphabet = list(tokens_by_id(tokenizer).values())[:256]
    swapped = [*alphabet[:7], alphabet[9], alphabet[8], alphabet[7], *alphabet[10:]]
    seven, nine = (re.escape(repr(alphabet[token_id])) for token_id in (7, 9))
    with pytest.raises(IdentityError, match=rf"token 7: expected {seven}, as .*; found {nine}\. A"):
        SoftTargetDataset(store, tokenizer=tokenizer_of(swapped))
    with pytest.raises(IdentityError, match=r"token 255: expected .* found no token"):
        SoftTargetDataset(store, tokenizer=tokenizer_of(alphabet[:255]))


def tokenizer_of(tokens: list[str]) -> PreTrainedTokenizerFast:
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    model = models.BPE(vocab=vocab, merges=[])
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))


def test_without_a_vocabulary_another_tokenizer_is_refused_by_its_hash(
    store: Store, tiny_teacher: Path
) -> None:
    """As in stores of format 1.1: nothing tells which token differs."""
    edit_manifest(store, lambda manifest: manifest.pop("vocabulary"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher)
    with pytest.raises(
        IdentityError, match=r"256 tokens, SHA-256 b{64}; found 256 tokens, .* no vo"
    ):
        SoftTargetDataset(store.root, tokenizer=tokenizer)


def test_at_most_two_blocks_are_read_ahead(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    submit, done = ThreadPoolExecutor.submit, []

    def count(self: ThreadPoolExecutor, read: Any, ref: Any) -> Any:
        """Count what the threads are asked to read, whether or not they are as far."""
        done.append(ref)
        return submit(self, read, ref)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", count)
    groups = iter(store.row_groups)
    ahead, left = 0, 0
    delivered = 0
    for _ in SoftTargetDataset(store, shuffle_groups=1):
        if left == 0:
            left, delivered = next(groups).num_windows, delivered + 1
        left -= 1
        ahead = max(ahead, len(done) - delivered)
    assert len(done) == len(store.row_groups) > 3
    assert ahead == 1


def test_stats_count_what_was_delivered(store: Store) -> None:
    dataset = SoftTargetDataset(store, batch_size=4)
    list(dataset)
    stats = dataset.stats()
    assert stats.windows == len(store)
    assert stats.tokens == sum(len(window) for window in store)
    assert stats.skipped_windows == 0
    assert 0 < stats.stall_seconds < stats.seconds
    assert stats.tokens_per_second == stats.tokens / stats.seconds


@pytest.mark.slow
def test_memory_is_that_of_two_blocks_over_many_epochs(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    schema = topk_schema()
    like, _ = make_window(rng, schema, num_tokens=512)
    windows = []
    for number in range(640):
        ids_L = like.input_ids_L.copy()
        ids_L[:2] = divmod(number, 100)
        window_id = hash_window(ids_L, like.segment_lengths_S, like.mask_T)
        windows.append(replace(like, input_ids_L=ids_L, window_id=window_id))
    store = write_store(
        tmp_path / "store", schema, [windows[at : at + 64] for at in range(0, 640, 64)]
    )
    assert len(store.row_groups) == 20
    before = pa.total_allocated_bytes()
    rows = store.read_rows(store.row_groups[0])
    row_group_bytes = pa.total_allocated_bytes() - before
    assert row_group_bytes > 10**5
    del rows
    dataset = SoftTargetDataset(store, shuffle=True, batch_size=8, shuffle_groups=2)
    most = 0
    for epoch in range(5):
        dataset.set_epoch(epoch)
        for _ in dataset:
            most = max(most, pa.total_allocated_bytes() - before)
    # Two blocks of two row groups, and one that is being decoded, with its pages.
    assert 3 * row_group_bytes < most < 6.5 * row_group_bytes
    assert pa.total_allocated_bytes() - before < row_group_bytes


def test_the_name_of_a_tokenizer_is_none(store: Store) -> None:
    with pytest.raises(InputError, match="tokenizer: expected a tokenizer of transformers; found"):
        SoftTargetDataset(store.root, tokenizer="teacher")
