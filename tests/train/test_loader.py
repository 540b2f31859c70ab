from __future__ import annotations

import json
from importlib import import_module as module
from pathlib import Path

import pytest
import torch

from softtargets import Batch, SoftTargetDataset, Store, distillation_loss
from softtargets.errors import IdentityError, InputError
from softtargets.train.loader import (
    SoftTargetLoader,
    check_rank,
    collective_device,
    targets_of_step,
)
from softtargets.train.student import check_embeddings, student_inputs
from tests.fakes import build_store
from tests.train.runs import make_student


def gradients(loader: SoftTargetLoader) -> list[torch.Tensor]:
    """Return the gradients of a loader's first optimizer step."""
    student = make_student()
    for _, batch in zip(range(loader.num_accumulated), loader, strict=False):
        logits = student(**student_inputs(batch)).logits
        loss = distillation_loss(logits, batch, ce_weight=0.3, num_targets=batch["step_targets"])
        loss.backward()
    return [one.grad for one in student.parameters() if one.grad is not None]


@pytest.mark.slow
def test_accumulated_gradients_are_those_of_one_large_batch(store: Store) -> None:
    whole = SoftTargetDataset(store, batch_size=12)
    sizes = [int(window.mask_T.sum()) for window in store][:12]
    assert len(set(sizes)) > 1
    expected = gradients(SoftTargetLoader(whole))
    for batch_size in (1, 2, 4):
        dataset = SoftTargetDataset(store, batch_size=batch_size)
        found = gradients(SoftTargetLoader(dataset, num_accumulated=12 // batch_size))
        for own, other in zip(found, expected, strict=True):
            # float32 sums in another order.
            torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-4)


def test_a_batch_without_targets_changes_no_step(store: Store) -> None:
    # The last of 40 ranks has none of the 28 windows.
    padding = SoftTargetDataset(store, rank=39, world_size=40, batch_size=1)
    (only,) = SoftTargetLoader(padding)
    assert (only["num_targets"], only["step_targets"]) == (0, 1)
    assert targets_of_step(0) == 1


@pytest.mark.parametrize(
    ("backends", "expected"),
    [
        ("cpu:gloo", "cpu"),
        ("cpu:gloo,cuda:gloo", "cpu"),
        ("cpu:gloo,cuda:nccl", "cpu"),
        ("cuda:nccl", "cuda:2"),
    ],
)
def test_numbers_are_summed_where_the_process_group_can(
    monkeypatch: pytest.MonkeyPatch, backends: str, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    assert collective_device(backends) == torch.device(expected)


def test_without_a_device_the_targets_of_a_step_come_back_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    """NCCL alone reduces no tensor of the CPU, which is where Lightning's loader leaves batches."""
    reduced: list[torch.Tensor] = []
    loader = module("softtargets.train.loader")
    monkeypatch.setattr(loader, "num_processes", lambda: 2)
    monkeypatch.setattr(loader.distributed, "get_backend_config", lambda: "meta:own")
    monkeypatch.setattr(loader.distributed, "all_reduce", reduced.append)
    monkeypatch.setattr(loader, "collective_device", lambda _: torch.device("meta"))
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        targets_of_step(3)
    monkeypatch.setattr(loader, "collective_device", lambda _: torch.device("cpu"))
    assert targets_of_step(3) == torch.tensor(1.5)
    assert [one.device.type for one in reduced] == ["meta", "cpu"]


def test_the_place_is_after_what_was_yielded_and_rolls_over(store: Store) -> None:
    loader = SoftTargetLoader(SoftTargetDataset(store, batch_size=4), num_accumulated=3)
    batches = iter(loader)
    for number in range(1, 8):
        next(batches)
        state = loader.state_dict()
        assert (state["epoch"], state["place"]) == (0, 4 * number)
        assert state["fingerprint"] == store.fingerprint
        assert len(json.dumps(state)) < 1024
    other = SoftTargetLoader(SoftTargetDataset(store, batch_size=4))
    other.load_state_dict(state)
    # The epoch is done: nothing of it would be left.
    assert other.epoch == 1
    assert (other.state_dict()["epoch"], other.state_dict()["place"]) == (1, 0)
    assert len(list(other)) == len(other) == 7


def test_what_does_not_go_together_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found none: it yields windows"):
        SoftTargetLoader(SoftTargetDataset(store))
    dataset = SoftTargetDataset(store, batch_size=4)
    with pytest.raises(InputError, match="num_accumulated: expected 1 or more; found 0"):
        SoftTargetLoader(dataset, num_accumulated=0)
    with pytest.raises(InputError, match="those of accelerate: rank 1 of 2; found rank 0 of 1"):
        check_rank(dataset, 1, 2, trainer="accelerate")
    (tmp_path / "other").mkdir()
    other = SoftTargetDataset(build_store(tmp_path / "other", temperatures=(3.0,)), batch_size=4)
    with pytest.raises(IdentityError, match="fingerprint"):
        SoftTargetLoader(other).load_state_dict(SoftTargetLoader(dataset).state_dict())


def test_documents_that_share_a_window_do_not_see_each_other() -> None:
    student = make_student().eval()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 300, (2, 8), generator=generator)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 0, 0, 0]])
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    batch = Batch(input_ids=ids, attention_mask=mask, position_ids=positions.int(), num_segments=2)
    with torch.no_grad():
        together = student(**student_inputs(batch)).logits
        second = student(input_ids=ids[:1, 3:]).logits[0]
        short = student(input_ids=ids[1:, :5]).logits[0]
    torch.testing.assert_close(together[0, 3:], second, atol=1e-5, rtol=0)
    torch.testing.assert_close(together[1, :5], short, atol=1e-5, rtol=0)
    batch["num_segments"] = 1
    assert set(student_inputs(batch)) == {"input_ids", "attention_mask"}


def test_a_student_that_lacks_an_id_is_refused_before_it_reads(store: Store) -> None:
    batch = next(iter(SoftTargetDataset(store, batch_size=2)))
    highest = int(batch["input_ids"].max())
    check_embeddings(make_student(), batch)
    student = make_student()
    student.resize_token_embeddings(highest + 1)
    check_embeddings(student, batch)
    student.resize_token_embeddings(highest)
    with pytest.raises(InputError, match=f"up to {highest}; found {highest} embeddings"):
        check_embeddings(student, batch)
