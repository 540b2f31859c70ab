"""Losses of class logits, against plain formulas, over problems and divergences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from softtargets import Batch, collate, distillation_loss
from softtargets.errors import InputError, TemperatureError
from softtargets.train import ReverseKL, distillation_floor
from tests.windows import KINDS, make_window

CLASS_KINDS = sorted(kind for kind, schema in KINDS.items() if schema.num_classes)
LABELLED = sorted(kind for kind in CLASS_KINDS if KINDS[kind].label_ids or KINDS[kind].label_values)


def batch_of(kind: str, trained: float = 0.7) -> Batch:
    rng = np.random.default_rng(0)
    lengths = (5, 9, 3, 12, 7)
    return collate(
        [make_window(rng, KINDS[kind], num_tokens=one, trained=trained)[0] for one in lengths]
    )


def student_of(batch: Batch) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch["class_logits"].shape, generator=generator).requires_grad_()


def binary(p: float, q: float) -> float:
    return float(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))


def sigmoid(z: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-z)))


def softmax(z: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(z) / np.exp(z).sum())


def divergence_in_numpy(batch: Batch, t_C: Any, s_C: Any, temperature: float) -> float:
    """Return KL(t || s) of one target, or the squared error."""
    problem = batch.schema.problem
    if problem == "regression":
        return float(np.mean((s_C - t_C) ** 2))
    if problem == "multi_label":
        pairs = zip(sigmoid(t_C / temperature), sigmoid(s_C / temperature), strict=True)
        return float(sum(binary(p, q) for p, q in pairs))
    p_C, q_C = softmax(t_C / temperature), softmax(s_C / temperature)
    return float((p_C * np.log(p_C / q_C)).sum())


def label_loss_in_numpy(batch: Batch, s_C: Any, label: Any) -> float:
    """Return the loss of one label; 0 where it is not known."""
    if batch.schema.label_values:
        if np.isnan(label).any():
            return 0.0
        if batch.schema.problem == "regression":
            return float(np.mean((s_C - label) ** 2))
        q_C = sigmoid(s_C)
        return float(-(label * np.log(q_C) + (1 - label) * np.log(1 - q_C)).sum())
    return 0.0 if label < 0 else float(-np.log(softmax(s_C)[int(label)]))


def loss_in_numpy(batch: Batch, student: torch.Tensor, temperature: float, weight: float) -> float:
    total, number = 0.0, 0
    wide = [one.detach().double().numpy() for one in (batch["class_logits"], student)]
    labels = batch["labels"].numpy()
    for place in zip(*np.nonzero(batch["target_mask"].numpy()), strict=True):
        t_C, s_C = (one[place] for one in wide)
        number += 1
        apart = divergence_in_numpy(batch, t_C, s_C, temperature)
        total += (1 - weight) * temperature**2 * apart
        if weight:
            total += weight * label_loss_in_numpy(batch, s_C, labels[place])
    return total / number


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("kind", CLASS_KINDS)
def test_the_loss_is_that_of_the_plain_formula(kind: str, temperature: float) -> None:
    batch = batch_of(kind)
    if batch.schema.problem == "regression" and temperature != 1:
        with pytest.raises(TemperatureError):
            distillation_loss(student_of(batch), batch, temperature)
        return
    for weight in (0.0, 0.3, 1.0) if kind in LABELLED else (0.0,):
        student = student_of(batch)
        loss = distillation_loss(student, batch, temperature, weight)
        assert loss.item() == pytest.approx(
            loss_in_numpy(batch, student, temperature, weight), rel=1e-5
        )
        loss.backward()
        assert student.grad is not None
        assert student.grad[~batch["target_mask"]].abs().sum() == 0
        assert student.grad.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "skew_kl"])
@pytest.mark.parametrize("kind", CLASS_KINDS)
def test_the_teacher_itself_has_no_loss_and_no_gradient(kind: str, divergence: Any) -> None:
    batch = batch_of(kind)
    own = batch["class_logits"].clone().requires_grad_()
    if batch.schema.problem == "regression" and divergence != "forward_kl":
        with pytest.raises(InputError, match="which no option changes"):
            distillation_loss(own, batch, divergence=divergence)
        return
    loss = distillation_loss(own, batch, divergence=divergence)
    loss.backward()
    assert loss.abs().item() < 1e-6
    assert own.grad is not None
    assert own.grad.abs().max() < 1e-6
    assert distillation_floor(batch, divergence=divergence).abs() < 1e-6


def test_a_divergence_of_labels_is_that_of_all_answers_together() -> None:
    """KL of the distributions over the 2^C answers that independent labels make."""
    batch = batch_of("many-labels", trained=1.0)
    student = student_of(batch)
    found = distillation_loss(student, batch, divergence=ReverseKL()).item()
    total = 0.0
    for t_C, s_C in zip(batch["class_logits"].numpy(), student.detach().numpy(), strict=True):
        p_A, q_A = np.ones(1), np.ones(1)
        for p, q in zip(sigmoid(t_C), sigmoid(s_C), strict=True):
            p_A, q_A = (np.outer(a_A, [b, 1 - b]).ravel() for a_A, b in ((p_A, p), (q_A, q)))
        total += float((q_A * np.log(q_A / p_A)).sum())
    assert found == pytest.approx(total / len(student), rel=1e-5)


def test_a_class_that_the_teacher_rules_out_leaves_losses_finite() -> None:
    batch = batch_of("classes-of-windows", trained=1.0)
    batch["class_logits"][:, 2] = -torch.inf
    for divergence in ("forward_kl", "reverse_kl", "jsd"):
        student = student_of(batch)
        loss = distillation_loss(student, batch, divergence=divergence)
        loss.backward()
        assert loss.isfinite()
        assert student.grad is not None
        assert student.grad.isfinite().all()


def test_confidence_weighs_the_teachers_answer() -> None:
    batch = batch_of("many-labels", trained=1.0)
    student = student_of(batch)
    wide = [one.detach().double().numpy() for one in (batch["class_logits"], student)]
    expected = np.mean(
        [
            np.prod(np.maximum(sigmoid(t_C), 1 - sigmoid(t_C)))
            * divergence_in_numpy(batch, t_C, s_C, 1.0)
            for t_C, s_C in zip(*wide, strict=True)
        ]
    )
    found = distillation_loss(student, batch, confidence_power=1.0).item()
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tail": "bucket"}, "neither: the logits of all classes are stored"),
        ({"ce_weight": 0.5}, "a store with labels, whose loss it weighs"),
        ({"ce_weight": 1.5}, "ce_weight"),
        ({"divergence": "other"}, "divergence"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes: dict[str, Any], match: str) -> None:
    batch = batch_of("classes-of-tokens")
    with pytest.raises(InputError, match=match):
        distillation_loss(student_of(batch), batch, **changes)


def test_a_student_of_other_classes_is_refused() -> None:
    batch = batch_of("classes-of-windows")
    with pytest.raises(InputError, match=r"shape \[5, 5\]: 5 class logits for each target"):
        distillation_loss(torch.zeros(5, 4), batch)


def test_parts_of_a_step_add_up() -> None:
    """Losses with the targets of the whole step sum to the loss of one large batch."""
    rng = np.random.default_rng(2)
    windows = [make_window(rng, KINDS["labelled-words"], num_tokens=one)[0] for one in (4, 9, 6)]
    whole = collate(windows)
    student = student_of(whole)
    expected = distillation_loss(student, whole, 2.0, 0.5)
    total = torch.zeros(())
    for row, window in enumerate(windows):
        own = collate([window])
        logits = student[row : row + 1, : own["input_ids"].shape[1]]
        total = total + distillation_loss(
            logits, own, 2.0, 0.5, num_targets=whole["target_mask"].sum()
        )
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
