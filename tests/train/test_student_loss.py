"""Fused with the student's head, a loss has the gradients that it has by logits."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

from softtargets import Batch, SoftTargetDataset, Store, distillation_loss, fused_distillation_loss
from softtargets.errors import InputError, LimitError
from softtargets.stream.logits_size import LOGITS_LIMIT, check_logits_size
from softtargets.train import DistillationObjective, distillation_objective
from softtargets.train.student_loss import StudentLoss
from tests.train.dense import largest_tensor
from tests.train.runs import make_student

LOSS = partial(distillation_loss, temperature=2.0, ce_weight=0.25)


@pytest.fixture
def batch(store: Store) -> Batch:
    first: Batch = next(iter(SoftTargetDataset(store, batch_size=4)))
    return first


def make_gemma() -> Gemma2ForCausalLM:
    """Return a student that caps its logits after its head."""
    torch.manual_seed(0)
    return Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, head_dim=8, final_logit_softcapping=30.0,
        )
    )  # fmt: skip


def make_gpt2() -> GPT2LMHeadModel:
    """Return a student whose head is its embedding."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=32,
                   resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    )  # fmt: skip


def made(loss: Any, fused: Any) -> StudentLoss:
    return StudentLoss(DistillationObjective(loss, fused))


def gradients(student: Any, loss: StudentLoss, batch: Batch) -> list[torch.Tensor]:
    student.zero_grad()
    loss(student, student, batch, 17.0).backward()
    return [one.grad.clone() for one in student.parameters() if one.grad is not None]


@pytest.mark.parametrize("make", [make_student, make_gpt2])
def test_the_gradients_are_those_by_logits(batch: Batch, make: Any) -> None:
    student = make()
    expected = gradients(student, made(LOSS, False), batch)
    for _ in range(2):  # The student is as it was.
        found = gradients(student, made(LOSS, True), batch)
        assert len(found) == len(expected)
        for own, other in zip(found, expected, strict=True):
            torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-4)
    assert max(float(one.abs().max()) for one in expected) > 1e-3
    assert student(input_ids=batch["input_ids"]).logits.shape[-1] == 300


@pytest.mark.slow
def test_auto_fuses_where_logits_are_many(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    student, rows = make_student(), batch["input_ids"].numel()

    def largest(fused: Any) -> int:
        return largest_tensor(lambda: made(LOSS, fused)(student, student, batch, None))

    assert largest("auto") == largest(False) >= rows * 300
    monkeypatch.setattr(distillation_objective, "FUSED_FROM_BYTES", rows * 300 * 4)
    monkeypatch.setattr("softtargets.train.fused.CHUNK_ELEMENTS", 3 * 300)
    assert largest("auto") == largest(True) < rows * 300
    # What can't be fused goes by logits.
    assert made(lambda *_, **__: torch.ones(()), "auto")(student, student, batch, None) == 1
    gemma = make_gemma()
    found, expected = (gradients(gemma, made(LOSS, one), batch) for one in ("auto", False))
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other)


def test_what_cannot_be_fused_is_refused_with_its_reason(batch: Batch) -> None:
    gemma, student, headless = make_gemma(), make_student(), make_student()
    with pytest.raises(InputError, match="found a student that changes its logits after its"):
        made(LOSS, True)(gemma, gemma, batch, None)
    assert "forward" not in vars(gemma.lm_head)
    headless.set_output_embeddings(torch.nn.Sequential(headless.get_output_embeddings()))
    with pytest.raises(InputError, match="found a student without a plain Linear output head"):
        made(LOSS, True)(headless, headless, batch, None)
    with pytest.raises(InputError, match="found a loss of your own"):
        made(lambda *_, **__: torch.ones(()), True)
    for loss, fused in ((partial(fused_distillation_loss), "auto"), (LOSS, "always")):
        with pytest.raises(InputError, match=r"distillation_loss, \.\.\.\) and fused=True"):
            made(loss, fused)
    assert made(LOSS, True)(student, student, batch, None).isfinite()


def test_too_many_logits_are_refused_before_they_are_made(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, found = make_student(), batch["input_ids"].numel() * 300 * 4
    logits = student(input_ids=batch["input_ids"]).logits
    monkeypatch.setenv(LOGITS_LIMIT.variable, f"{found - 1}")
    refused = rf"at most {found - 1:,} bytes .*; found {found:,}: 4 rows of .* Use fused_distilla"
    with pytest.raises(LimitError, match=refused):
        distillation_loss(logits, batch)
    with pytest.raises(LimitError, match=refused):
        # A model that is called before the check would fail in another way.
        made(LOSS, "auto")(torch.nn.Identity(), student, batch, None)
    assert made(LOSS, True)(student, student, batch, None).isfinite()
    monkeypatch.setenv(LOGITS_LIMIT.variable, f"{found}")
    assert distillation_loss(logits, batch).isfinite()


def test_by_default_eight_rows_of_a_vocabulary_of_262144_are_refused() -> None:
    ids = torch.zeros((8, 512), dtype=torch.int64)
    with pytest.raises(LimitError, match=r"found 4,294,967,296: 8 rows of 512 tokens"):
        check_logits_size(Batch(input_ids=ids), 262144)
