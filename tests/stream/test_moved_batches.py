"""A batch that is moved, cut or rounded by others is still what it was, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from accelerate.utils import send_to_device
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision
from torch.utils.data import DataLoader, default_convert
from torch.utils.data._utils import pin_memory
from transformers import Trainer

from softtargets import Batch, SoftTargetDataset, Store, collate, distillation_loss
from softtargets.errors import InputError


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
