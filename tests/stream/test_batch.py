from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision
from torch.utils.data import DataLoader, default_convert
from torch.utils.data._utils import pin_memory
from transformers import Trainer

from softtargets import (
    IGNORE_INDEX,
    Batch,
    SoftTargetDataset,
    Store,
    collate,
    distillation_loss,
)
from softtargets.errors import InputError, TemperatureError
from softtargets.kinds import SampleSchema
from softtargets.targets import SoftTargets, TargetSchema, pack
from softtargets.window import Window
from tests.golden import GOLDEN
from tests.windows import KINDS, KINDS_OF_1_3, make_window, topk_schema


@pytest.mark.slow
@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("scale", [3.0, 400.0])
@pytest.mark.parametrize(("vocab_size", "k"), [(300, 8), (262_144, 5), (20, 20)])
def test_targets_on_a_device_are_those_of_the_windows(
    rng: np.random.Generator, lossless: bool, scale: float, vocab_size: int, k: int
) -> None:
    schema = topk_schema(k, vocab_size=vocab_size, lossless=lossless)
    windows = [make_window(rng, schema, num_tokens=length, scale=scale)[0] for length in (3, 7, 2)]
    batch = collate(windows)
    for temperature in (1.0, 2.0):
        found = batch.soft_targets(temperature)
        assert found.ids.shape == found.logprobs.shape == (3, 7, k)
        assert (found.ids.dtype, found.logprobs.dtype) == (torch.int64, torch.float32)
        for row, window in enumerate(windows):
            count = len(window.packed)
            expected = window.targets
            assert np.array_equal(found.ids[row, :count], expected.ids_TK)
            np.testing.assert_allclose(
                found.logprobs[row, :count], expected.logprobs_TK(temperature), atol=2e-4
            )
            np.testing.assert_allclose(
                found.tail_logmass[row, :count], expected.tail_logmass_T(temperature), atol=1e-6
            )
        total = found.logprobs.exp().sum(dim=2) + found.tail_logmass.exp()
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-4, rtol=0)


def test_masks_and_labels_stand_where_they_belong(rng: np.random.Generator) -> None:
    long, short = (make_window(rng, num_tokens=length)[0] for length in (5, 3))
    long.mask_T[1] = False
    batch = collate([long, short])
    assert batch.token_mask().tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    mask = batch.soft_targets().mask
    assert mask.tolist() == [[True, False, True, True, False], [True, True, False, False, False]]
    labels = batch["labels"]
    # The target at t is of token t + 1: that token is the label.
    assert torch.equal(labels[:, 1:] != IGNORE_INDEX, mask[:, :-1])
    assert (labels[:, 0] == IGNORE_INDEX).all()
    at = labels != IGNORE_INDEX
    assert torch.equal(labels[at], batch["input_ids"][at])
    assert batch["window_id"] == [long.window_id, short.window_id]


@pytest.mark.parametrize("lossless", [False, True])
def test_fewer_entries_than_there_is_room_for_still_sum_to_one(
    rng: np.random.Generator, lossless: bool
) -> None:
    window, _ = make_window(rng, topk_schema(lossless=lossless), num_tokens=40, ruled_out=0.5)
    assert (window.targets.num_entries_T == 3).sum() > 5
    for temperature in (1.0, 2.0):
        found = collate([window]).soft_targets(temperature)
        total = found.logprobs.exp().sum(dim=2) + found.tail_logmass.exp()
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("origin", ["all", "tail"])
@pytest.mark.parametrize(("scale", "drawn_at"), [(3.0, 1.0), (3.0, 2.0), (70.0, 1.0)])
def test_sampled_ids_have_the_weights_of_their_definition(
    rng: np.random.Generator,
    origin: Literal["all", "tail"],
    lossless: bool,
    scale: float,
    drawn_at: float,
) -> None:
    """t_hat_i = (c_i / N) t_i(T) / q_i, q what was drawn from: all in float64 here."""
    schema = dataclasses.replace(
        topk_schema(lossless=lossless),
        head=topk_schema(lossless=lossless).head if origin == "tail" else None,
        samples=SampleSchema(
            num_draws=9,
            origin=origin,
            temperature=drawn_at,
            values="float32" if lossless else "steps",
        ),
    )
    windows = [make_window(rng, schema, num_tokens=length, scale=scale)[0] for length in (9, 5)]
    batch = collate(windows)
    for temperature in (1.0, 2.0):
        found = batch.soft_targets(temperature)
        assert found.sample_ids is not None
        assert found.sample_weights is not None
        for row, window in enumerate(windows):
            own = window.targets
            assert own.samples is not None
            assert own.samples.logits_S is not None
            at_S = np.repeat(np.arange(len(own)), own.samples.num_samples_T)
            logits_S = own.samples.logits_S.astype(np.float64)
            at_draws = (1.0, 2.0).index(drawn_at)
            drawn_mass_T = own.tail_mass_TG[:, at_draws] if origin == "tail" else np.ones(len(own))
            q_S = np.exp(logits_S / drawn_at - own.logsumexp_T(drawn_at)[at_S]) / drawn_mass_T[at_S]
            t_S = np.exp(logits_S / temperature - own.logsumexp_T(temperature)[at_S])
            expected_S = own.samples.counts_S / 9 * t_S / q_S
            start = 0
            for t, count in enumerate(own.samples.num_samples_T):
                stop = start + count
                assert found.sample_ids[row, t, :count].tolist() == (
                    own.samples.ids_S[start:stop].tolist()
                )
                weights = found.sample_weights[row, t]
                np.testing.assert_allclose(weights[:count], expected_S[start:stop], rtol=1e-3)
                assert (weights[count:] == 0).all()
                start = stop
    assert found.sample_weights is not None
    assert (found.sample_weights[1, 4:] == 0).all()
    if origin == "all":
        assert found.ids.shape[2] == found.logprobs.shape[2] == 0
        assert (found.tail_logmass == 0).all()


def test_at_the_temperature_of_the_draws_no_logits_are_needed(rng: np.random.Generator) -> None:
    batch = collate([make_window(rng, KINDS["sampled"])[0]])
    weights = batch.soft_targets(1.0).sample_weights
    assert weights is not None
    torch.testing.assert_close(weights[0, :5].sum(dim=1), torch.ones(5))
    with pytest.raises(TemperatureError, match="the logits of the drawn ids, to weigh them anew"):
        batch.soft_targets(2.0)


def test_entries_that_are_not_kept_have_no_mass(rng: np.random.Generator) -> None:
    window, _ = make_window(rng)
    window.packed.cells["num_entries"][2] = 3
    logprobs = collate([window]).soft_targets().logprobs[0, 2]
    assert torch.isfinite(logprobs[:3]).all()
    assert (logprobs[3:] == -torch.inf).all()


def test_to_moves_every_tensor(store: Store) -> None:
    batch = collate(list(store)[:2])
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    assert {name for name, value in batch.items() if isinstance(value, torch.Tensor)} == {
        name
        for name, value in moved.items()
        if isinstance(value, torch.Tensor) and value.device.type == "meta"
    }
    assert moved["window_id"] == batch["window_id"]


class Watched(torch.Tensor):
    """A tensor that tells how it was moved."""

    blocking: ClassVar[list[bool]] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.Tensor.to:
            cls.blocking.append(not kwargs["non_blocking"])
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]


def test_what_reaches_the_cpu_is_there(store: Store) -> None:
    """A copy to the CPU that does not block may be read before it has arrived."""
    batch = collate(list(store)[:2])
    batch["labels"] = batch["labels"].as_subclass(Watched)
    Watched.blocking.clear()
    batch.to("cpu", non_blocking=True)
    batch.to(torch.device("cpu"), non_blocking=True)
    batch.to("meta", non_blocking=True)
    assert Watched.blocking == [True, True, False]


def test_tensors_that_were_cut_apart_are_refused(store: Store) -> None:
    """Places of a longer mask would be other positions, or none, of what is shorter."""
    batch = collate(list(store)[:2])
    num_tokens = batch["input_ids"].shape[1]
    cut = Batch({**batch, "input_ids": batch["input_ids"][:, :-1]})
    with pytest.raises(InputError, match=f"expected {num_tokens - 1} positions, .* found"):
        cut.check()
    with pytest.raises(InputError, match=rf"Batch, target_mask.*found {num_tokens - 1}\."):
        Batch({**batch, "target_mask": batch["target_mask"][:, :-1]}).check()
    Batch({**batch, "own": torch.zeros((2, 1))}).check()


COMPACT = {"steps": torch.uint8, "id_plane_0": torch.uint8, "id_plane_1": torch.uint8}


def sent_by_accelerate(batch: Batch) -> Any:
    return send_to_device(batch, torch.device("cpu"), non_blocking=True)


def prepared_by_transformers(batch: Batch) -> Any:
    trainer = Trainer.__new__(Trainer)
    trainer.args = SimpleNamespace(device=torch.device("cpu"))  # type: ignore[assignment]
    trainer.is_deepspeed_enabled = False
    return trainer._prepare_inputs(batch)  # type: ignore[arg-type]


def moved_by_lightning(batch: Batch) -> Any:
    return move_data_to_device(batch, torch.device("cpu"))


def pinned(batch: Batch) -> Any:
    """Only the memory itself needs a device to be pinned for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
        return pin_memory.pin_memory(batch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "move",
    [
        sent_by_accelerate,
        prepared_by_transformers,
        moved_by_lightning,
        default_convert,
        pinned,
    ],
)
def test_what_trainers_move_stays_a_compact_batch(store: Store, move: Callable[..., Any]) -> None:
    batch = collate(list(store)[:3])
    moved = move(batch)
    assert isinstance(moved, Batch)
    assert set(moved) == set(batch)
    for name, value in batch.items():
        if torch.is_tensor(value):
            assert moved[name].dtype == value.dtype, name
            assert torch.equal(moved[name], value), name
    assert {name: moved[name].dtype for name in COMPACT} == COMPACT
    assert moved["window_id"] == batch["window_id"]
    expected, found = batch.soft_targets(), moved.soft_targets()
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.logprobs, expected.logprobs)


def test_rows_of_a_batch_are_a_batch_of_those_windows(store: Store) -> None:
    windows = list(store)[:6]
    batch = collate(windows)
    assert len({len(window.packed.cells["escapes"]) for window in windows}) > 1
    rows = slice(2, 5)
    part = Batch({n: v[rows] if hasattr(v, "shape") else v for n, v in batch.items()})
    with pytest.raises(InputError, match=r"Batch, input_ids: expected 6 rows, .* found 3"):
        part.soft_targets()
    with pytest.raises(InputError, match="Batch, input_ids: expected 6 rows"):
        distillation_loss(torch.zeros(*part["input_ids"].shape, 300), part)
    part["window_id"] = part["window_id"][rows]
    expected = batch.soft_targets()
    assert torch.equal(part.soft_targets().logprobs, expected.logprobs[rows])


def test_numbers_that_a_trainer_rounded_are_refused(store: Store) -> None:
    batch = collate(list(store)[:2])
    half = HalfPrecision("bf16-true").convert_input(batch)
    with pytest.raises(InputError, match=r"expected float32, as stored; found torch\.bfloat16"):
        half.soft_targets()
    assert MixedPrecision("bf16-mixed", "cpu").convert_input(batch).soft_targets()


@pytest.mark.slow
def test_a_batch_is_the_same_from_a_worker(store: Store) -> None:
    here, there = (
        next(iter(DataLoader(SoftTargetDataset(store), 4, num_workers=n, collate_fn=collate)))
        for n in (0, 1)
    )
    assert isinstance(there, Batch)
    assert set(here) == set(there)
    for name, value in here.items():
        same = torch.equal(value, there[name]) if torch.is_tensor(value) else value == there[name]
        assert same, name


def test_a_temperature_outside_the_grid_is_refused(store: Store) -> None:
    with pytest.raises(TemperatureError, match=r"temperature 3: expected one of .* stored: 1, 2"):
        collate(list(store)[:2]).soft_targets(3.0)


def test_windows_of_different_schemas_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="found 2 windows of 2 schemas"):
        collate([make_window(rng, topk_schema(8))[0], make_window(rng, topk_schema(9))[0]])
    with pytest.raises(InputError, match="found 0 windows"):
        collate([])


SAMPLED = {"sampled", "sampled-with-logits", "hybrid"}
PLAIN = {"topk", "topk-lossless", "topk-of-262144", "assistant-tokens", "with-metadata"} | SAMPLED
PLAIN.add("masked-tokens")
PLAIN |= set(KINDS_OF_1_3)


@pytest.mark.parametrize("lossless", [False, True])
def test_listed_targets_stand_at_their_positions(rng: np.random.Generator, lossless: bool) -> None:
    """A batch of some positions is that of all positions where those are, and empty elsewhere."""
    every = [
        make_window(rng, topk_schema(lossless=lossless), num_tokens=length, scale=100.0)[0]
        for length in (9, 14, 5)
    ]
    schema = dataclasses.replace(topk_schema(lossless=lossless), positions="listed")
    listed = []
    for window in every:
        positions_T = np.flatnonzero(rng.random(len(window.mask_T)) < 0.5).astype(np.int32)
        own = window.targets
        arrays = {
            name: getattr(own, name)[positions_T]
            for name in (
                "ids_TK",
                "logits_TK",
                "num_entries_T",
                "tail_mass_TG",
                "label_logit_T",
                "label_rank_T",
            )
        }
        some = SoftTargets(temperatures=own.temperatures, **arrays)
        listed.append(
            dataclasses.replace(
                window,
                positions_T=positions_T,
                mask_T=window.mask_T[positions_T],
                packed=pack(some, schema),
            )
        )
        window.mask_T[np.setdiff1d(np.arange(len(window.mask_T)), positions_T)] = False
    whole, found = collate(every), collate(listed)
    assert torch.equal(found["labels"], whole["labels"])
    expected, targets = whole.soft_targets(2.0), found.soft_targets(2.0)
    assert torch.equal(targets.mask, expected.mask)
    at = targets.mask
    assert at.any()
    assert torch.equal(targets.ids[at], expected.ids[at])
    torch.testing.assert_close(targets.logprobs[at], expected.logprobs[at])
    torch.testing.assert_close(targets.tail_logmass[at], expected.tail_logmass[at])
    assert (targets.tail_logmass[~at] == 0).all()


def test_labels_of_masked_tokens_stand_where_these_do(rng: np.random.Generator) -> None:
    schema = KINDS["masked-tokens"]
    windows = [
        make_window(rng, schema, num_tokens=length, trained=0.7)[0] for length in (20, 31, 9)
    ]
    batch = collate(windows)
    expected = torch.full(batch["input_ids"].shape, -100)
    for row, window in enumerate(windows):
        places_T, mask_T = torch.from_numpy(window.target_positions_T), window.mask_T
        expected[row, places_T[mask_T]] = torch.from_numpy(window.labels_T[mask_T]).long()
    assert torch.equal(batch["labels"], expected)
    assert torch.equal(batch.target_labels(), expected)
    assert torch.equal(batch["target_mask"], expected != -100)
    targets = batch.soft_targets(2.0)
    for row, window in enumerate(windows):
        at_T = torch.from_numpy(window.target_positions_T)
        own = window.targets
        torch.testing.assert_close(
            targets.logprobs[row, at_T], torch.from_numpy(own.logprobs_TK(2.0))
        )


def test_documents_that_share_a_window_are_told_apart(rng: np.random.Generator) -> None:
    window, _ = make_window(rng, num_tokens=6)
    first = int(window.segment_lengths_S[0])
    batch = collate([window, make_window(rng, num_tokens=8)[0]])
    assert batch["segment_ids"][0].tolist() == [0] * first + [1] * (6 - first) + [0, 0]
    assert batch["position_ids"][0].tolist() == [*range(first), *range(6 - first), 0, 0]


def check_classes(windows: list[Window], schema: TargetSchema) -> None:
    """Check class logits, labels and token types of a batch, element by element."""
    batch = collate(windows)
    is_of_windows = schema.convention.is_of_windows
    assert (batch["input_ids"][0, len(windows[0]) :] == schema.pad_token_id).all()
    assert ("token_type_ids" in batch) == schema.token_types
    for row, window in enumerate(windows):
        logits_TC = window.packed.cells["class_logits"].reshape(-1, schema.num_classes)
        if schema.token_types:
            types_L = batch["token_type_ids"][row, : len(window)].tolist()
            assert window.token_types_L is not None
            assert types_L == window.token_types_L.tolist()
        for target, position in enumerate(window.target_positions_T.tolist()):
            at = row if is_of_windows else (row, position)
            assert batch["class_logits"][at].tolist() == logits_TC[target].tolist()
            assert batch["target_mask"][at] == window.mask_T[target]
            expected: Any = -100
            if schema.label_values:
                assert window.label_values_F is not None
                values_TC = window.label_values_F.reshape(-1, schema.num_classes)
                expected = values_TC[target] if window.mask_T[target] else values_TC[0] * np.nan
            elif schema.label_ids and window.mask_T[target] and window.labels_T[target] >= 0:
                expected = window.labels_T[target]
            np.testing.assert_array_equal(batch["labels"][at].numpy(), expected)
    if not is_of_windows:
        assert batch["target_mask"].sum() == sum(window.mask_T.sum() for window in windows)


def check_states(windows: list[Window], schema: TargetSchema) -> None:
    """Check that a batch has the vectors of every feature where they belong."""
    batch = collate(windows)
    for one in schema.features:
        found, is_there = batch.states(one.name), batch.has_states(one.name)
        expected = np.concatenate([window.targets.features[one.name] for window in windows])
        if one.rows == "targets":
            expected = expected[np.concatenate([window.mask_T for window in windows])]
        np.testing.assert_array_equal(found[is_there].float().numpy(), expected)
        assert (found[~is_there] == 0).all()
    with pytest.raises(InputError, match="expected one of the store's features"):
        batch.states("layer_99")


def check_sources(windows: list[Window], schema: TargetSchema) -> None:
    """Check what a batch has of the encoder's input: all of it, padded, with a mask."""
    batch = collate(windows)
    for row, window in enumerate(windows):
        assert window.encoder_ids_M is not None
        num_read = len(window.encoder_ids_M)
        assert batch["encoder_input_ids"][row, :num_read].tolist() == window.encoder_ids_M.tolist()
        assert (batch["encoder_input_ids"][row, num_read:] == schema.pad_token_id).all()
        is_token_M = batch["encoder_attention_mask"][row]
        assert is_token_M[:num_read].all()
        assert not is_token_M[num_read:].any()
    assert batch["encoder_input_ids"].shape[1] == max(2 * len(window) for window in windows)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - PLAIN))
def test_a_batch_holds_all_that_a_store_has_or_is_refused(
    rng: np.random.Generator, kind: str
) -> None:
    windows = [make_window(rng, KINDS[kind], num_tokens=length)[0] for length in (9, 12)]
    if kind == "topk-without-tail":
        with pytest.raises(TemperatureError, match="there are none"):
            collate(windows).soft_targets()
    elif KINDS[kind].num_classes:
        check_classes(windows, KINDS[kind])
        check_states(windows, KINDS[kind])
    elif KINDS[kind].features and KINDS[kind].head and kind != "features":
        check_states(windows, KINDS[kind])
    elif KINDS[kind].encoder_input:
        check_sources(windows, KINDS[kind])
    else:
        with pytest.raises(InputError, match=r"with labels: a head, samples, or both, .*; found "):
            collate(windows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "assistant-tokens", "classes-of-windows", "hybrid", "sampled-with-logits", "topk-lossless",
        "topk-of-262144", "topk-without-tail", "translation", "with-metadata",
    ],
)  # fmt: skip
def test_rows_of_a_store_make_the_batch_that_its_windows_make(kind: str) -> None:
    store = Store.open(GOLDEN / f"{kind}-1.1" / "store")
    windows = list(store)
    dataset = SoftTargetDataset(store, batch_size=len(windows))
    [batch] = dataset
    expected = collate(windows)
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert batch[name].dtype == value.dtype
            assert torch.equal(batch[name], value), name
        else:
            assert batch[name] == value
    assert set(batch) == {*expected, "epoch", "next_place"}


def test_batches_stay_when_other_shards_are_read(store: Store) -> None:
    # The memory that files are read into is used again.
    first, second = (
        next(ref for ref in store.row_groups if ref.shard == shard) for shard in (0, 1)
    )
    rows = store.read_rows(first)
    kept = [{name: row.cell(name).copy() for name in row.columns} for row in rows]
    store.read_rows(second)
    for row, copy in zip(rows, kept, strict=True):
        for name, cell in copy.items():
            assert np.array_equal(row.cell(name), cell)
