"""The whole distribution from stored hidden states: as if the teacher were there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softtargets import Store, collate, distillation_loss
from softtargets.errors import InputError, TemperatureError
from softtargets.train import JSD, Divergence, OutputHead, ReverseKL, fused_distillation_loss
from tests.fakes import FakeTeacher, build_store
from tests.train.dense import DIVERGENCES, largest_tensor
from tests.train.output_heads import WIDTH, live_logits, make_store, online_losses, student


@pytest.mark.slow
@pytest.mark.parametrize("num_ids", [300, 320])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.37])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("head", ["float32", "ruled out"])
def test_it_is_the_loss_with_the_teacher_beside_the_student(
    tmp_path: Path, head: str, divergence: Divergence, temperature: float, num_ids: int
) -> None:
    """Its gradient too, on logits and in chunks; within 1e-5 of float64."""
    store = make_store(tmp_path, head)
    batch = collate(list(store))
    at = batch["target_mask"]
    hidden, weight, bias = student(num_ids)
    options: dict[str, Any] = {"divergence": divergence, "tail": "full"}
    options["teacher_head"] = OutputHead.of(store)
    reference = (hidden @ weight.T + bias)[at]
    expected = online_losses(divergence, live_logits(store), reference, temperature).mean()
    expected.backward()
    losses = [
        distillation_loss(hidden @ weight.T + bias, batch, temperature, **options),
        fused_distillation_loss(
            hidden, weight, batch, temperature, head_bias=bias, chunk_size=4, **options
        ),
    ]
    wanted = [one.grad.clone() for one in (hidden, weight, bias) if one.grad is not None]
    assert len(wanted) == 3
    for loss in losses:
        torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=1e-5)
        hidden.grad = weight.grad = bias.grad = None
        loss.backward()
        for own, other in zip((hidden, weight, bias), wanted, strict=True):
            assert own.grad is not None
            assert 0 < (own.grad - other).norm() < 1e-3 * other.norm()


def test_a_real_teachers_loss_is_that_of_its_live_logits(tmp_path: Path) -> None:
    """What a training script with the teacher in it computes, in float32; shifted it is another."""
    store = build_store(tmp_path, hidden_states=True)
    batch = collate(list(store)[:4])
    teacher = FakeTeacher()
    teacher_BLV = teacher.logits(teacher.hidden_states(batch["input_ids"]))
    student_BLV = teacher_BLV + torch.randn(teacher_BLV.shape, generator=torch.Generator())
    losses = torch.nn.functional.kl_div(
        student_BLV.log_softmax(dim=-1), teacher_BLV.softmax(dim=-1), reduction="none"
    ).sum(dim=-1)
    options: dict[str, Any] = {"tail": "full", "teacher_head": OutputHead.of(store)}
    found = distillation_loss(student_BLV, batch, **options)
    torch.testing.assert_close(found, losses[batch["target_mask"]].mean(), atol=1e-5, rtol=1e-5)
    assert found > 0.1
    shifted = distillation_loss(student_BLV.roll(1, dims=1), batch, **options)
    assert shifted > 2 * found


def test_in_bfloat16_the_logits_are_those_of_bfloat16(tmp_path: Path) -> None:
    store = make_store(tmp_path, "bfloat16")
    batch = collate(list(store))
    head = OutputHead.of(store)
    assert head.weight_VD.dtype == batch["hidden_states"].dtype == torch.bfloat16
    hidden_ND = batch["hidden_states"][batch["target_mask"]]
    assert head.bias_V is not None
    plain_NV = torch.nn.functional.linear(hidden_ND, head.weight_VD, head.bias_V)
    plain_NV = torch.tanh(plain_NV * 0.75 / 6.0 / 0.5) * 0.5
    assert torch.equal(head.logits(hidden_ND), plain_NV)
    wide_NV = OutputHead.of(store, dtype=torch.float32).logits(hidden_ND)
    torch.testing.assert_close(wide_NV.double(), live_logits(store), atol=1e-5, rtol=1e-5)
    assert not torch.equal(wide_NV, plain_NV.float())
    logits = student()[0] @ student()[1].T
    heads = [OutputHead.of(store, dtype=one) for one in (None, torch.float32)]
    losses = [distillation_loss(logits, batch, tail="full", teacher_head=one) for one in heads]
    torch.testing.assert_close(losses[0], losses[1], rtol=0.01, atol=0)


def test_autocast_does_not_round_the_teacher(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    batch = collate(list(store))
    head = OutputHead.of(store)
    hidden_ND = batch["hidden_states"].flatten(0, 1)
    expected = head.logits(hidden_ND)
    assert expected.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head.logits(hidden_ND), expected)
        assert (hidden_ND @ head.weight_VD.T).dtype == torch.bfloat16


def test_ids_that_the_teacher_lacks_lose_their_mass(tmp_path: Path) -> None:
    """A student that has put half of its mass there is told to take it away, by all divergences."""
    store = make_store(tmp_path)
    batch = collate(list(store))
    for divergence in DIVERGENCES:
        logits = torch.zeros((3, 12, 320))
        logits[..., 300:] = np.log(15)
        logits.requires_grad_()
        options: dict[str, Any] = {"tail": "full", "teacher_head": OutputHead.of(store)}
        loss = distillation_loss(logits, batch, divergence=divergence, **options)
        loss.backward()
        assert torch.isfinite(loss)
        assert logits.grad is not None
        assert (logits.grad[batch["target_mask"]][:, 300:] > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("what", ["peaked student", "-inf student", "-inf both"])
def test_never_nan(tmp_path: Path, what: str, divergence: Divergence) -> None:
    store = make_store(tmp_path, "ruled out")
    batch = collate(list(store))
    logits = torch.zeros((3, 12, 320))
    if what == "peaked student":
        logits[..., 1] = 200.0
    else:
        logits[..., 300:] = -torch.inf
        if what == "-inf both":
            logits[..., :300:3] = -torch.inf
    logits.requires_grad_()
    head = OutputHead.of(store)
    loss = distillation_loss(logits, batch, divergence=divergence, tail="full", teacher_head=head)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"ce_weight": 1.0},
        {"ce_weight": 0.3, "temperature": 3.3},
        {"confidence_power": 2.0},
        {"confidence_power": -0.5, "temperature": 2.0, "divergence": JSD(0.3)},
        {"num_targets": 7},
        {"divergence": ReverseKL(), "ce_weight": 0.5},
    ],
)
@pytest.mark.parametrize("chunk_size", [1, 5, None])
def test_options_do_in_chunks_what_they_do_on_logits(
    tmp_path: Path, options: dict[str, Any], chunk_size: int | None
) -> None:
    store = make_store(tmp_path)
    batch = collate(list(store))
    options = options | {"tail": "full", "teacher_head": OutputHead.of(store)}
    hidden, weight, _ = student(310)
    expected = distillation_loss(hidden @ weight.T, batch, **options)
    expected.backward()
    wanted = [one.grad.clone() for one in (hidden, weight) if one.grad is not None]
    hidden.grad = weight.grad = None
    found = fused_distillation_loss(hidden, weight, batch, chunk_size=chunk_size, **options)
    found.backward()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for own, other in zip((hidden, weight), wanted, strict=True):
        torch.testing.assert_close(own.grad, other, atol=1e-5, rtol=1e-4)


def test_sure_positions_weigh_more(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    batch = collate(list(store))
    hidden, weight, _ = student()
    logits = hidden @ weight.T
    teacher_NV = live_logits(store)
    each_N = online_losses(DIVERGENCES[0], teacher_NV, logits[batch["target_mask"]], 2.0)
    sure_N = (teacher_NV / 2).softmax(dim=1).amax(dim=1) ** 1.5
    found = distillation_loss(
        logits, batch, 2.0, confidence_power=1.5, tail="full", teacher_head=OutputHead.of(store)
    )
    torch.testing.assert_close(found.double(), (sure_N * each_N).mean(), atol=1e-5, rtol=1e-5)


def test_cross_entropy_alone_is_what_it_is_without_a_teacher(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    batch = collate(list(store))
    hidden, weight, _ = student()
    plain = distillation_loss(hidden @ weight.T, batch, ce_weight=1.0)
    full = distillation_loss(
        hidden @ weight.T, batch, ce_weight=1.0, tail="full", teacher_head=OutputHead.of(store)
    )
    assert torch.equal(plain, full)


def test_a_batch_without_targets_gives_zero(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    windows = list(store)
    for window in windows:
        window.mask_T.setflags(write=True)
    batch = collate(windows)
    batch["target_mask"][:] = False
    options: dict[str, Any] = {"tail": "full", "teacher_head": OutputHead.of(store)}
    hidden, weight, _ = student()
    assert distillation_loss(hidden @ weight.T, batch, **options).item() == 0
    assert fused_distillation_loss(hidden, weight, batch, **options).item() == 0


def test_no_tensor_of_all_logits_is_made(tmp_path: Path) -> None:
    """Neither of the student's nor of the teacher's."""
    store = make_store(tmp_path)
    batch, head = collate(list(store)), OutputHead.of(store)
    hidden, weight, _ = student()

    def train() -> None:
        fused_distillation_loss(
            hidden, weight, batch, tail="full", teacher_head=head, chunk_size=4
        ).backward()

    assert largest_tensor(train) == max(300 * WIDTH, 4 * 300)


def test_what_does_not_go_together_is_refused(tmp_path: Path, store: Store) -> None:
    own = make_store(tmp_path / "own")
    (tmp_path / "other").mkdir()
    other = OutputHead.of(make_store(tmp_path / "other", "ruled out"))
    plain, batch, head = collate(list(store)[:3]), collate(list(own)), OutputHead.of(own)
    for wrong, options, message in (
        (plain, {"tail": "full", "teacher_head": head}, "tail 'full': .* without"),
        (plain, {"tail": "full"}, "tail 'full': expected a store with the teacher's hidden states"),
        (batch, {"tail": "full"}, "teacher_head: .* batch's own store; found none"),
        (batch, {"tail": "full", "teacher_head": other}, "own store; found another, with SHA-256"),
        (batch, {"teacher_head": head}, "teacher_head: expected tail='full' with it; found"),
        (batch, {"tail": "bucket", "teacher_head": head}, "found tail='bucket'"),
        (batch, {"tail": "full", "teacher_head": head, "temperature": 0.0}, "a positive number"),
        (batch, {"tail": "full", "teacher_head": head, "temperature": np.inf}, "a positive num"),
    ):  # fmt: skip
        hidden, weight, _ = student()
        hidden = torch.zeros((*wrong["input_ids"].shape, WIDTH))
        with pytest.raises(InputError, match=message):
            distillation_loss(hidden @ weight.T, wrong, **options)
        with pytest.raises(InputError, match=message):
            fused_distillation_loss(hidden, weight, wrong, **options)
    with pytest.raises(InputError, match="teacher_head: expected one on the batch's device, meta"):
        distillation_loss(
            torch.zeros((3, 12, 300)), batch.to("meta"), tail="full", teacher_head=head
        )
    with pytest.raises(InputError, match=r"teacher's output head; .* --hidden-states"):
        OutputHead.of(store)
    # Without a head of its own the grid stays what it is.
    with pytest.raises(TemperatureError, match="one of the temperatures stored"):
        distillation_loss(torch.zeros((3, 12, 300)), batch, 1.7)
