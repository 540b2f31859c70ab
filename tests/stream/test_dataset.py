from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer, models
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from softtargets import SoftTargetDataset, Store, collate, distillation_loss
from softtargets.capture import TeacherConfig, TransformersTeacher, build
from softtargets.errors import (
    CorruptionError,
    IdentityError,
    InputError,
    StoreError,
    TemperatureError,
)
from softtargets.tokenizer import tokens_by_id
from softtargets.window import hash_window
from tests.corruptions import Change, drop, forge_column, put
from tests.fakes import build_config, build_store
from tests.golden import write_store
from tests.processes import CONTEXT
from tests.store.test_store import edit_manifest
from tests.stream.resume import WRONG, fuzz_resume
from tests.windows import make_window, topk_schema


def ids(dataset: SoftTargetDataset) -> list[str]:
    return [window.window_id for window in dataset]


def loaded_ids(dataset: SoftTargetDataset, num_workers: int, batch_size: int = 3) -> list[str]:
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=collate)
    return [window_id for batch in loader for window_id in batch["window_id"]]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    ("world_size", "num_workers"),
    [
        *((world_size, 0) for world_size in (1, 2, 3, 5)),
        (2, 2),
        *(pytest.param(world_size, 2, marks=pytest.mark.slow) for world_size in (1, 3, 5)),
    ],
)
def test_every_window_exactly_once_over_ranks_and_workers(
    store: Store, shuffle: bool, world_size: int, num_workers: int
) -> None:
    expected = [window.window_id for window in store]
    found: list[str] = []
    for rank in range(world_size):
        dataset = SoftTargetDataset(store, shuffle=shuffle, rank=rank, world_size=world_size)
        mine = loaded_ids(dataset, num_workers)
        assert len(mine) == len(dataset) == -(-len(store) // world_size)
        found += mine
    padding = -len(store) % world_size
    assert sorted(found) == [""] * padding + sorted(expected)


def test_ranks_take_turns_in_one_order(store: Store) -> None:
    whole = ids(SoftTargetDataset(store, shuffle=True, seed=5))
    for rank in range(3):
        part = ids(SoftTargetDataset(store, shuffle=True, seed=5, rank=rank, world_size=3))
        assert [one for one in part if one] == whole[rank::3]


def global_steps(store: Store, world_size: int, global_batch_size: int, **options: Any) -> Any:
    """Return the ids of every step over all ranks."""
    ranks = [
        [
            batch["window_id"]
            for batch in SoftTargetDataset(
                store, rank=rank, world_size=world_size, global_batch_size=global_batch_size,
                shuffle=True, seed=4, **options,
            )
        ]
        for rank in range(world_size)
    ]  # fmt: skip
    assert len({len(steps) for steps in ranks}) == 1
    return [
        [one for together in zip(*step, strict=True) for one in together]
        for step in zip(*ranks, strict=True)
    ]


@pytest.mark.slow
def test_any_number_of_ranks_gives_the_same_global_batches(store: Store) -> None:
    assert len(store) % 24 != 0
    one = global_steps(store, 1, 24)
    assert [row for step in one for row in step if row] == ids(
        SoftTargetDataset(store, shuffle=True, seed=4)
    )
    for world_size in (2, 3, 4, 8):
        assert global_steps(store, world_size, 24) == one
    with pytest.raises(InputError, match="24 is divided by world sizes 1, 2, 3, 4, 6, 8, 12, 24"):
        SoftTargetDataset(store, rank=0, world_size=5, global_batch_size=24)


def test_the_tail_is_padded_or_dropped_or_an_error(store: Store) -> None:
    size = 4
    while len(store) % size == 0:
        size += 1
    padded = list(SoftTargetDataset(store, batch_size=size))
    assert len(padded) == -(-len(store) // size)
    last = padded[-1]
    rows = len(store) % size
    assert last["window_id"][rows:] == [""] * (size - rows)
    assert all(last["window_id"][:rows])
    assert not last["target_mask"][rows:].any()
    assert (last["labels"][rows:] == -100).all()
    # They change no loss, and no gradient can come from them.
    logits = torch.randn((*last["input_ids"].shape, last["vocab_size"]), requires_grad=True)
    distillation_loss(logits, last, ce_weight=0.5).backward()
    assert logits.grad is not None
    assert not logits.grad[rows:].any()
    dropped = SoftTargetDataset(store, batch_size=size, tail="drop")
    found = [row for batch in dropped for row in batch["window_id"]]
    assert len(dropped) == len(store) // size
    assert found == [window.window_id for window in store][: len(dropped) * size]
    with pytest.raises(InputError, match="Sizes near it that do"):
        len(SoftTargetDataset(store, batch_size=size, tail="error"))
    with pytest.raises(InputError, match=f"divides the {len(store)} windows; found {size}"):
        iter(SoftTargetDataset(store, batch_size=size, tail="error"))
    assert len(list(SoftTargetDataset(store, batch_size=1, tail="error"))) == len(store)


@pytest.mark.slow
def test_more_ranks_than_windows_take_the_same_steps(store: Store) -> None:
    world_size = len(store) + 3
    steps = global_steps(store, world_size, 2 * world_size)
    assert len(steps) == 1
    assert sorted(filter(None, steps[0])) == sorted(window.window_id for window in store)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_come_in_the_same_order_from_workers(store: Store, num_workers: int) -> None:
    dataset = SoftTargetDataset(store, shuffle=True, batch_size=4)
    whole = [batch["window_id"] for batch in dataset]
    loader = DataLoader(dataset, batch_size=None, num_workers=num_workers)
    assert [batch["window_id"] for batch in loader] == whole


@pytest.mark.slow
@pytest.mark.parametrize("num_threads", [0, 1, 3])
@pytest.mark.parametrize("shuffle_groups", [1, 2, None])
def test_threads_change_nothing(store: Store, num_threads: int, shuffle_groups: int | None) -> None:
    options: dict[str, Any] = {"shuffle": True, "shuffle_groups": shuffle_groups}
    one, other = (
        SoftTargetDataset(store, num_threads=threads, **options) for threads in (0, num_threads)
    )
    for expected, found in zip(one, other, strict=True):
        assert found.window_id == expected.window_id
        assert np.array_equal(found.targets.ids_TK, expected.targets.ids_TK)


def test_the_plan_tells_the_windows_of_any_step(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = global_steps(store, 3, 12)
    dataset = SoftTargetDataset(
        store, shuffle=True, seed=4, rank=1, world_size=3, global_batch_size=12
    )
    first = dataset.plan(0)
    monkeypatch.setattr(Store, "open_shard", None)  # Nothing is read any more.
    assert [first, *(dataset.plan(step) for step in range(1, len(dataset)))] == [
        [one for one in step if one] for step in steps
    ]
    with pytest.raises(InputError, match=f"a step from 0 to {len(dataset) - 1}"):
        dataset.plan(len(dataset))


@pytest.mark.slow
def test_the_order_follows_seed_and_epoch(store: Store) -> None:
    dataset = SoftTargetDataset(store.root, shuffle=True, seed=1)
    first = ids(dataset)
    assert ids(dataset) == first
    dataset.set_epoch(1)
    assert ids(dataset) != first
    dataset.set_epoch(0)
    assert ids(dataset) == first
    assert ids(SoftTargetDataset(store, shuffle=True, seed=2)) != first
    assert ids(SoftTargetDataset(store)) == [window.window_id for window in store]


@pytest.mark.slow
def test_persistent_workers_see_the_epoch(store: Store) -> None:
    dataset = SoftTargetDataset(store, shuffle=True)
    loader = DataLoader(
        dataset, batch_size=4, num_workers=1, persistent_workers=True, collate_fn=collate
    )

    def epoch_ids(epoch: int) -> list[str]:
        dataset.set_epoch(epoch)
        return [window_id for batch in loader for window_id in batch["window_id"]]

    orders = [epoch_ids(epoch) for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize(
    ("num_cases", "seed"), [(30, 0), pytest.param(220, 2, marks=pytest.mark.slow)]
)
def test_resuming_loses_and_doubles_nothing_and_keeps_the_order(
    store: Store, num_cases: int, seed: int
) -> None:
    counts = fuzz_resume(store, num_cases=num_cases, max_workers=0, seed=seed)
    assert counts["cases"] == num_cases
    assert counts["stops"] > 1.6 * num_cases
    assert {name: counts[name] for name in WRONG} == dict.fromkeys(WRONG, 0)


@pytest.mark.slow
def test_resuming_with_workers_does_so_too(store: Store) -> None:
    counts = fuzz_resume(store, num_cases=12, max_workers=2, seed=1)
    assert counts["with workers"] > 10
    assert {name: counts[name] for name in WRONG} == dict.fromkeys(WRONG, 0)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_epoch_after_a_resumed_one_is_whole(store: Store, num_workers: int) -> None:
    dataset = SoftTargetDataset(store, shuffle=True, batch_size=3)
    whole = [batch["window_id"] for batch in dataset]
    batches = iter(dataset)
    next(batches)
    state = dataset.state_dict(next(batches))
    resumed = SoftTargetDataset(store, shuffle=True, batch_size=3)
    resumed.load_state_dict(state)
    loader = DataLoader(resumed, batch_size=None, num_workers=num_workers)
    for expected in (whole[2:], whole, whole):
        assert [batch["window_id"] for batch in loader] == expected
    # What was resumed here is not resumed again in workers, nor in part of them.
    resumed.load_state_dict(state)
    assert [batch["window_id"] for batch in resumed] == whole[2:]
    two = DataLoader(resumed, batch_size=None, num_workers=2)
    assert [batch["window_id"] for batch in two] == whole
    # A state of one epoch says nothing about another.
    resumed.load_state_dict(state)
    resumed.set_epoch(1)
    assert len(list(loader)) == len(whole)


@pytest.mark.slow
def test_no_epoch_before_a_resumed_one_is_begun(store: Store) -> None:
    dataset = SoftTargetDataset(store, shuffle=True, batch_size=3)
    dataset.set_epoch(2)
    batches = iter(dataset)
    state = dataset.state_dict(next(batches))
    resumed = SoftTargetDataset(store, shuffle=True, batch_size=3)
    resumed.load_state_dict(state)
    with pytest.raises(InputError, match=r"an epoch from 2 on, of which place 3 .* found 0"):
        resumed.set_epoch(0)
    assert resumed.epoch == 2
    assert len(list(resumed)) == len(resumed) - 1
    resumed.set_epoch(0)
    # The same where workers have resumed it.
    resumed.load_state_dict(state)
    loader = DataLoader(resumed, batch_size=None, num_workers=2)
    assert len(list(loader)) == len(resumed) - 1
    resumed.set_epoch(0)


def test_the_state_is_taken_after_the_batch_that_was_trained_on(store: Store) -> None:
    dataset = SoftTargetDataset(store, shuffle=True, batch_size=2)
    whole = [batch["window_id"] for batch in dataset]
    batches = list(zip(range(5), iter(dataset), strict=False))
    state = dataset.state_dict(after=batches[1][1])
    resumed = SoftTargetDataset(store, shuffle=True, batch_size=2)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert [batch["window_id"] for batch in resumed] == whole[2:]
    with pytest.raises(InputError, match="one that was made of windows"):
        dataset.state_dict(after=collate(list(store)[:2]))


def test_a_state_of_another_order_is_refused(store: Store, tmp_path: Path) -> None:
    state = SoftTargetDataset(store, shuffle=True).state_dict()
    for other, field in (
        (SoftTargetDataset(store, shuffle=True, seed=1), "seed"),
        (SoftTargetDataset(store), "shuffle"),
        (SoftTargetDataset(store, shuffle=True, shuffle_groups=3), "shuffle_groups"),
    ):
        with pytest.raises(IdentityError, match=f"load_state_dict, {field}"):
            other.load_state_dict(state)
    (tmp_path / "other").mkdir()
    another = build_store(tmp_path / "other", temperatures=(3.0,))
    with pytest.raises(IdentityError, match="load_state_dict, fingerprint"):
        SoftTargetDataset(another, shuffle=True).load_state_dict(state)

    with pytest.raises(InputError, match="found nothing"):
        SoftTargetDataset(store).load_state_dict({})
    state["place"] = -1
    with pytest.raises(InputError, match="found epoch 0, place -1"):
        SoftTargetDataset(store, shuffle=True).load_state_dict(state)


def test_a_moved_store_is_the_same_store(store: Store, tmp_path: Path) -> None:
    state = SoftTargetDataset(store).state_dict()
    moved = store.root.rename(tmp_path / "moved")
    SoftTargetDataset(moved).load_state_dict(state)


@pytest.mark.slow
def test_workers_that_inherit_nothing_deliver_the_same(store: Store) -> None:
    dataset = SoftTargetDataset(store, shuffle=True)
    loader = DataLoader(
        dataset,
        batch_size=3,
        num_workers=1,
        collate_fn=collate,
        multiprocessing_context=CONTEXT,
    )
    found = [window_id for batch in loader for window_id in batch["window_id"]]
    assert found == ids(dataset)


@pytest.mark.slow
def test_the_state_of_windows_delivered_by_workers_is_refused(store: Store) -> None:
    dataset = SoftTargetDataset(store)
    next(iter(DataLoader(dataset, batch_size=2, num_workers=1, collate_fn=collate)))
    with pytest.raises(InputError, match="found one iterated in DataLoader workers"):
        dataset.state_dict()


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


def flip_a_bit(store: Store, other: Store) -> None:
    entry = store.manifest.shards[1]
    path = store.root / entry.path
    content = bytearray(path.read_bytes())
    content[entry.row_groups[0].offset + 40] ^= 1
    path.write_bytes(content)


def truncate(store: Store, other: Store) -> None:
    path = store.root / store.manifest.shards[1].path
    path.write_bytes(path.read_bytes()[:-1])


def remove(store: Store, other: Store) -> None:
    (store.root / store.manifest.shards[1].path).unlink()


def swap(store: Store, other: Store) -> None:
    one, two = (store.root / store.manifest.shards[unit].path for unit in (1, 2))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def leave_a_stale_one(store: Store, other: Store) -> None:
    path = store.root / store.manifest.shards[1].path
    path.write_bytes((other.root / other.manifest.shards[1].path).read_bytes())


FAULTS = (flip_a_bit, truncate, remove, swap, leave_a_stale_one)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of other temperatures, which is only read."""
    return build_store(tmp_path_factory.mktemp("other"), temperatures=(2.0, 3.0))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_damage_is_raised_and_never_skipped(
    store: Store, other: Store, fault: Callable[..., None], num_workers: int, shuffle: bool
) -> None:
    fault(store, other)
    with pytest.raises(CorruptionError, match=r"unit-00000[12]\.parquet"):
        loaded_ids(SoftTargetDataset(store, shuffle=shuffle), num_workers)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_only_what_is_damaged_is_skipped_if_asked(
    store: Store, other: Store, fault: Callable[..., None]
) -> None:
    sound = ids(SoftTargetDataset(store, shuffle=True))
    fault(store, other)
    dataset = SoftTargetDataset(store, shuffle=True, on_error="skip")
    with pytest.warns(RuntimeWarning, match="Windows are skipped"):
        found = ids(dataset)
    # What is sound keeps its place.
    assert len(found) == len(sound)
    assert all(one in ("", expected) for one, expected in zip(found, sound, strict=True))
    stats = dataset.stats()
    assert found.count("") == stats.skipped_windows == len(store) - stats.windows
    damaged = {1, 2} if fault is swap else {1}
    most = sum(store.manifest.shards[unit].num_windows for unit in damaged)
    assert 0 < stats.skipped_windows <= most


def test_damaged_row_groups_are_skipped_counted_and_reported_if_asked(store: Store) -> None:
    flip_a_bit(store, store)
    entry = store.manifest.shards[1]
    missing = {
        window.window_id
        for ref in store.row_groups
        if (ref.shard, ref.group) != (1, 0)
        for window in store.read_row_group(ref)
    }
    counts = []
    for rank in range(2):
        dataset = SoftTargetDataset(
            store, shuffle=True, rank=rank, world_size=2, batch_size=3, on_error="skip"
        )
        with pytest.warns(
            RuntimeWarning, match=f"Windows are skipped. .*{entry.path}, row group 0"
        ):
            found = [one for batch in dataset for one in batch["window_id"] if one]
        missing -= set(found)
        stats = dataset.stats()
        assert stats.windows == len(found)
        assert len(stats.errors) == 1
        counts.append((len(list(found)), stats.skipped_windows))
    assert not missing
    assert sum(skipped for _, skipped in counts) == entry.row_groups[0].num_windows
    assert sum(sum(one) for one in counts) == len(store)


@pytest.mark.slow
def test_a_row_group_that_does_not_come_is_an_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, comes, came = Store.read_row_group, threading.Event(), list[bool]()

    def slowly(self: Store, ref: Any) -> Any:
        if ref.shard == 0:
            came.append(comes.wait())
        return read(self, ref)

    monkeypatch.setattr(Store, "read_row_group", slowly)
    dataset = SoftTargetDataset(store, stall_timeout=0.2, shuffle_groups=1)
    # The first of all, so that none is waited for that only takes its time.
    with pytest.raises(StoreError, match=r"shard 0, row group 0: expected to be read"):
        list(dataset)
    assert dataset.stats().stall_seconds >= 0.2
    # Whoever catches it need not wait for what does not come.
    assert not came
    comes.set()
    for thread in threading.enumerate():
        if thread.name.startswith("softtargets-"):
            thread.join()
    assert came == [True]


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


def test_an_iteration_keeps_the_epoch_it_began_with(store: Store) -> None:
    dataset = SoftTargetDataset(store, shuffle=True, batch_size=4)
    whole = [batch["window_id"] for batch in dataset]
    batches = iter(dataset)
    dataset.set_epoch(1)
    assert [batch["window_id"] for batch in batches] == whole


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("id_plane_1", put(255), "column id_plane_1: expected ids below 300"),
        ("tail_mass_t1", put(7.0), "column tail_mass_t1: expected a mass from 0 to below 1; found"),
        ("tail_mass_t2", put(np.nan), "column tail_mass_t2: expected a mass from 0 to below 1"),
        ("input_ids", put(-1), "column input_ids: expected ids from 0 to 299; found -1"),
        ("escapes", drop(), "column escapes: expected a difference for each of"),
        ("segment_lengths", put(2**31 - 1), "column segment_lengths: expected lengths that sum"),
    ],
)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_values_that_are_none_reach_no_student(
    store: Store, column: str, change: Change, message: str, batch_size: int | None
) -> None:
    forge_column(store.root, column, change)
    where = "unit-000000.parquet, row group 0, row 0, "
    with pytest.raises(CorruptionError, match=re.escape(where + message)):
        list(SoftTargetDataset(store.root, batch_size=batch_size))
    dataset = SoftTargetDataset(store.root, batch_size=batch_size, on_error="skip")
    with pytest.warns(RuntimeWarning, match=column):
        assert len(list(dataset)) == len(dataset)
    assert 0 < dataset.stats().skipped_windows < len(store)


def test_the_name_of_a_tokenizer_is_none(store: Store) -> None:
    with pytest.raises(InputError, match="tokenizer: expected a tokenizer of transformers; found"):
        SoftTargetDataset(store.root, tokenizer="teacher")
