"""Hidden states of masked models: the head recomputes all logits, and students match angles."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from softtargets import Batch, SoftTargetDataset, distillation_loss, student_inputs, verify
from softtargets.capture import build
from softtargets.errors import InputError
from softtargets.store import Store
from softtargets.tasks.masked_lm.masked_capture import MaskedCapture
from softtargets.train import OutputHead, StudentWithObjective, WeightedObjective
from tests.tasks.masked import FAMILIES, masked_config, masked_teacher, save_masked_model

Save = Callable[[str], Path]
Options = dict[str, Any]
NEAR = 2e-5
"""How far float32 logits of several units may be off when sums are made in another order."""


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Return where a model of a family lies; each is written once."""
    return cache(lambda family: save_masked_model(tmp_path_factory.mktemp(family), family))


def build_hidden(directory: Path, model: Path, dtype: str = "float32", **options: Any) -> Store:
    """Build a store with the hidden states of a model."""
    task = MaskedCapture(maskings=2, **options)
    config = masked_config(directory, task, hidden_states=True)
    return build(config, masked_teacher(model, dtype)).store


def whole_batch(store: Store) -> Batch:
    batch: Batch = next(iter(SoftTargetDataset(store, batch_size=len(store))))
    return batch


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", ["targets", "tokens"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_stored_head_gives_the_models_own_logits(
    tmp_path: Path, save: Save, family: str, rows: Any, dtype: str
) -> None:
    store = build_hidden(tmp_path, save(family), dtype, hidden_rows=rows)
    assert verify(store.root).is_sound
    assert store.targets.output_head is not None
    assert store.targets.output_head.transform is not None
    batch, head = whole_batch(store), OutputHead.of(store)
    model = AutoModelForMaskedLM.from_pretrained(save(family), dtype=getattr(torch, dtype)).eval()
    with torch.inference_mode():
        found = model(**student_inputs(batch), output_hidden_states=True)
        is_target = batch["target_mask"]
        expected_NV = found.logits[is_target].float()
        hidden_ND = batch["hidden_states"][is_target]
        # bfloat16 has 8 significant bits.
        near = NEAR if dtype == "float32" else 2**-5 * float(expected_NV.abs().max())
        assert (head.logits(hidden_ND).float() - expected_NV).abs().max() < near
        is_there = batch.token_mask() if rows == "tokens" else is_target
        own, other = found.hidden_states[-1][is_there], batch["hidden_states"][is_there]
        assert (own - other).abs().max() < near
        assert (batch["hidden_states"][~is_there] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["targets", "tokens"])
def test_the_whole_distribution_is_a_target_at_any_temperature(
    tmp_path: Path, save: Save, rows: Any
) -> None:
    store = build_hidden(tmp_path, save("Bert"), hidden_rows=rows)
    batch, head = whole_batch(store), OutputHead.of(store)
    student = AutoModelForMaskedLM.from_pretrained(save("Bert")).eval()
    loss = partial(distillation_loss, batch=batch, tail="full", teacher_head=head, temperature=3.7)
    own = student(**student_inputs(batch)).logits
    assert abs(loss(own).item()) < NEAR
    other = own.flip(2).detach()
    is_target = batch["target_mask"]
    expected = 3.7**2 * functional.kl_div(
        (other[is_target] / 3.7).log_softmax(1),
        (own[is_target] / 3.7).log_softmax(1),
        log_target=True,
        reduction="batchmean",
    )
    torch.testing.assert_close(loss(other), expected, rtol=1e-4, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"hidden_rows": "tokens"}])
def test_the_teacher_as_its_own_student_has_no_angle_and_no_loss(
    tmp_path: Path, save: Save, options: Options
) -> None:
    store = build_hidden(tmp_path, save("DistilBert"), **options)
    student = AutoModelForMaskedLM.from_pretrained(save("DistilBert")).eval()
    trained = StudentWithObjective(student, WeightedObjective(labels=0))
    loss = trained(whole_batch(store))
    loss.backward()
    assert abs(loss.item()) < 10 * NEAR
    for parameter in student.parameters():
        assert parameter.grad is None or parameter.grad.abs().max() < 10 * NEAR


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["targets", "tokens"])
@pytest.mark.parametrize("fused", [False, True])
def test_distilberts_loss_is_the_sum_of_its_three(
    tmp_path: Path, save: Save, rows: Any, fused: bool
) -> None:
    store = build_hidden(tmp_path, save("Bert"), hidden_rows=rows)
    batch = whole_batch(store)
    student = AutoModelForMaskedLM.from_pretrained(save("DistilBert"), vocab_size=123).eval()
    found = student(**student_inputs(batch), output_hidden_states=True)
    is_target = batch["target_mask"]
    is_there = batch.token_mask() if rows == "tokens" else is_target
    logits_NV = found.logits[is_target]
    soft = distillation_loss(found.logits, batch, temperature=2.0)
    labels = functional.cross_entropy(logits_NV, batch["labels"][is_target])
    ones = torch.ones(int(is_there.sum()))
    cosine = functional.cosine_embedding_loss(
        found.hidden_states[-1][is_there], batch["hidden_states"][is_there], ones
    )
    expected = 5 * soft + 2 * labels + cosine
    trained = StudentWithObjective(student, WeightedObjective(fused=fused))
    torch.testing.assert_close(trained(batch), expected, rtol=1e-5, atol=0)
    number = 3 * batch["num_targets"]
    torch.testing.assert_close(trained(batch, number), expected / 3, rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["targets", "tokens"])
def test_int8_states_are_those_within_a_step(tmp_path: Path, save: Save, rows: Any) -> None:
    (tmp_path / "exact").mkdir()
    exact = build_hidden(tmp_path / "exact", save("Bert"), hidden_rows=rows)
    store = build_hidden(tmp_path, save("Bert"), hidden_rows=rows, hidden_values="int8")
    assert verify(store.root).is_sound
    assert store.targets.output_head is None
    assert not (store.root / "head.parquet").exists()
    batch = whole_batch(store)
    found = batch["hidden_states"].float() * batch["hidden_scales"][..., None]
    expected = whole_batch(exact)["hidden_states"]
    half_step = expected.abs().amax(dim=2, keepdim=True) / 254
    assert ((found - expected).abs() <= half_step * 1.001).all()
    student = AutoModelForMaskedLM.from_pretrained(save("Bert")).eval()
    angle = StudentWithObjective(student, WeightedObjective(labels=0, soft=1e-9))(batch).item()
    # 1 - cos is at most half the squared relative error.
    is_there = batch.token_mask() if rows == "tokens" else batch["target_mask"]
    width, norms = expected.shape[2], expected[is_there].norm(dim=1)
    most = (half_step[is_there][:, 0] * width**0.5 / norms).square() / 2
    assert -1e-6 < angle < float(most.mean()) + 1e-6


@pytest.mark.slow
def test_a_student_of_another_width_or_a_store_without_states_is_refused(
    tmp_path: Path, save: Save
) -> None:
    (tmp_path / "bare").mkdir()
    bare = build(masked_config(tmp_path / "bare"), masked_teacher(save("Bert"))).store
    config = BertConfig(
        vocab_size=bare.targets.vocab_size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    trained = StudentWithObjective(BertForMaskedLM(config), WeightedObjective())
    with pytest.raises(InputError, match=r"cosine: expected a store with .*; found one without"):
        trained(whole_batch(bare))
    store = build_hidden(tmp_path, save("Bert"))
    with pytest.raises(InputError, match=r"whose hidden states are 32 wide, .*; found 16"):
        trained(whole_batch(store))
    without = StudentWithObjective(BertForMaskedLM(config), WeightedObjective(cosine=0))
    assert without(whole_batch(store)).item() > 0
    with pytest.raises(InputError, match=r"soft \+ labels"):
        WeightedObjective(soft=0, labels=0)
    with pytest.raises(InputError, match="cosine: expected"):
        WeightedObjective(cosine=-1)


def test_rows_and_values_need_hidden_states(tmp_path: Path, save: Save) -> None:
    config = masked_config(tmp_path, MaskedCapture(hidden_rows="tokens"))
    with pytest.raises(InputError, match="--hidden-rows, --hidden-values: expected --hidden-st"):
        build(config, masked_teacher(save("Bert")))


@pytest.mark.slow
def test_tokens_have_their_own_vectors_whatever_the_batch(tmp_path: Path, save: Save) -> None:
    teacher = masked_teacher(save("Roberta"))
    store = build_hidden(tmp_path, save("Roberta"), hidden_rows="tokens")
    teacher.load()
    for window in store:
        ids_1L = torch.from_numpy(window.input_ids_L.astype(np.int64))[None]
        found = window.targets.features["last_hidden"]
        expected = teacher.hidden_states(ids_1L)[0].numpy()
        np.testing.assert_allclose(found, expected, atol=NEAR)
