from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softtargets import Batch, collate, distillation_loss
from softtargets.capture import Draws, Hybrid, Sampled
from softtargets.capture.keep.selection import Selection
from softtargets.errors import InputError
from softtargets.train import choose_tail, distillation_floor, fused_distillation_loss
from softtargets.train.entropy import entropy_of_counts, entropy_of_tail
from tests.fakes import FakeTeacher, build_store
from tests.windows import KINDS, make_window

SELECTIONS: list[Selection] = [
    Sampled(draws=Draws(num=12)),
    Hybrid(k=4, draws=Draws(num=6)),
    Hybrid(k=16, draws=Draws(num=16)),
]


def all_windows(directory: Path, **changes: Any) -> tuple[Batch, torch.Tensor]:
    """Return a store as one batch, and the teacher's logits for it."""
    batch = collate(list(build_store(directory, **changes)))
    teacher = FakeTeacher()
    return batch, teacher.logits(teacher.hidden_states(batch["input_ids"]))


def fused(logits: torch.Tensor, batch: Batch, **options: Any) -> torch.Tensor:
    return fused_distillation_loss(logits, torch.eye(logits.shape[-1]), batch, **options)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_with_the_logits_of_draws_a_teacher_has_no_divergence_from_itself(
    tmp_path: Path, selection: Selection, temperature: float
) -> None:
    batch, logits = all_windows(tmp_path, selection=selection, values="float32")
    for loss in (distillation_loss, fused):
        assert loss(logits, batch, temperature=temperature).item() == pytest.approx(0, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_value_on_draws_is_an_unbiased_estimate_of_the_forward_kl(
    tmp_path: Path, selection: Selection, temperature: float
) -> None:
    batch, teacher_BLV = all_windows(tmp_path, selection=selection, values="float32")
    student_BLV = 0.3 * teacher_BLV.roll(1, dims=2)
    log_t_BLV, log_s_BLV = (
        (one / temperature).log_softmax(dim=2) for one in (teacher_BLV, student_BLV)
    )
    kl_BL = (log_t_BLV.exp() * (log_t_BLV - log_s_BLV)).sum(dim=2)
    found, expected = [], []
    for row, place in batch["target_mask"].nonzero().tolist():
        mask = torch.zeros_like(batch["target_mask"])
        mask[row, place] = True
        one = Batch({**batch, "target_mask": mask})
        found.append(distillation_loss(student_BLV, one, temperature=temperature).item())
        expected.append(temperature**2 * kl_BL[row, place].item())
    off = np.array(found) - np.array(expected)
    error = off.std() / np.sqrt(len(off))
    assert len(off) > 200
    assert abs(off.mean()) < 4 * error
    # The cross-entropy would be off by the teacher's entropy.
    entropy = -(log_t_BLV.exp() * log_t_BLV).sum(dim=2).mean().item()
    assert temperature**2 * entropy > 20 * error


@pytest.mark.slow
@pytest.mark.parametrize("temperatures", [(1.0,), (1.0, 2.0)])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_gradient_is_that_of_the_cross_entropy_to_the_bit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    selection: Selection,
    temperatures: tuple[float, ...],
) -> None:
    batch, logits = all_windows(tmp_path, selection=selection, temperatures=temperatures)
    options: dict[str, Any] = {
        "temperature": temperatures[-1],
        "ce_weight": 0.25,
        "num_targets": 7.0,
    }
    found = {}
    for name in ("kl", "cross-entropy"):
        if name == "cross-entropy":
            monkeypatch.setattr(
                "softtargets.train.losses.estimated_entropy",
                lambda batch, targets, places_N, temperature: torch.zeros(len(places_N)),
            )
        for loss in (distillation_loss, fused):
            own = (0.5 * logits).requires_grad_()
            result = loss(own, batch, **options)
            (gradient,) = torch.autograd.grad(result, own)
            found[name, loss] = result.item(), gradient
    for loss in (distillation_loss, fused):
        value, gradient = found["kl", loss]
        other, expected = found["cross-entropy", loss]
        assert value < other - 1
        assert torch.equal(gradient, expected)
    assert found["kl", fused][0] == pytest.approx(found["kl", distillation_loss][0], rel=1e-5)


def test_without_logits_the_tail_is_that_of_normal_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    for sigma in (1.0, 2.0, 3.0):
        logits_NV = sigma * torch.randn((64, 20_000), generator=generator)
        log_t_NV = logits_NV.log_softmax(dim=1)
        top = log_t_NV.topk(16, dim=1)
        tail_NV = log_t_NV.exp().scatter(1, top.indices, 0)
        exact_N = -torch.special.xlogy(tail_NV, tail_NV).sum(dim=1)
        found_N = entropy_of_tail(top.values, tail_NV.sum(dim=1).log(), 20_000)
        assert found_N.mean().item() == pytest.approx(exact_N.mean().item(), abs=0.05)
        # A pinned id far below the others, at the end, moves it little.
        pinned_N1 = log_t_NV.amin(dim=1, keepdim=True)
        with_pin_NE = torch.cat([top.values, pinned_N1], dim=1)
        rest_N = (tail_NV.sum(dim=1) - pinned_N1[:, 0].exp()).log()
        found_N = entropy_of_tail(with_pin_NE, rest_N, 20_000)
        assert found_N.mean().item() == pytest.approx(exact_N.mean().item(), abs=0.1)


def test_the_entropy_of_a_tail_keeps_to_what_is_possible() -> None:
    none = -torch.inf
    rows = [
        ([-0.1, none, none], -2.35),  # One entry, a tail with a tenth.
        ([-1e-6, -14.0, none], none),  # No tail at all.
        ([-1e-4, -12.0, -12.5], -9.5),  # More than its ids could have below the second entry.
        ([none, none, none], 0.0),  # Nothing kept.
        ([-8.0, -8.0, -8.0], -0.001),  # Nearly uniform.
        ([-1e-7, -40.0, -60.0], -65.0),
    ]
    log_t_NE = torch.tensor([row for row, _ in rows])
    log_rest_N = torch.tensor([rest for _, rest in rows])
    found_N = entropy_of_tail(log_t_NE, log_rest_N, 3000)
    mass_N = log_rest_N.exp()
    assert found_N.isfinite().all()
    assert found_N[[1, 3]].tolist() == [0, 0]
    assert (found_N <= mass_N * (np.log(3000) - log_rest_N.clamp(min=-70)) + 1e-4).all()
    assert (found_N >= -1e-6).all()


def test_few_counts_tell_an_entropy_roughly_and_many_exactly() -> None:
    rng = np.random.default_rng(0)
    p_V = rng.dirichlet(np.full(200, 0.1))
    exact = -(p_V * np.log(np.maximum(p_V, 1e-300))).sum()
    for num_draws, allowed in ((32, 0.2), (4096, 0.02)):
        counts_NS = torch.from_numpy(rng.multinomial(num_draws, p_V, size=400))
        found = entropy_of_counts(counts_NS).mean().item()
        assert found == pytest.approx(exact, abs=allowed)
        # What was drawn, as if it were all there is.
        shares_NS = counts_NS / num_draws
        plain = -torch.special.xlogy(shares_NS, shares_NS).sum(dim=1).mean().item()
        assert abs(found - exact) < 0.5 * abs(plain - exact)
    edges_NS = torch.tensor([[0, 0, 0], [1, 0, 0], [9, 0, 0], [1, 1, 1]])
    found_N = entropy_of_counts(edges_NS)
    assert found_N[:3].tolist() == [0, 0, 0]
    assert np.log(3) < found_N[3] < 3


@pytest.mark.slow
def test_draws_without_logits_tell_the_divergence_roughly(tmp_path: Path) -> None:
    selection = Hybrid(k=16, draws=Draws(num=16))
    batch, logits = all_windows(tmp_path, selection=selection, temperatures=(1.0,))
    assert "sample_logits" not in batch
    value = distillation_loss(logits, batch).item()
    t_BLV = logits.softmax(dim=2)
    entropy = -(t_BLV * t_BLV.log()).sum(dim=2)[batch["target_mask"]].mean().item()
    assert abs(value) < 0.1 * entropy


def test_the_floor_is_the_loss_of_the_teacher(tmp_path: Path) -> None:
    batch, logits = all_windows(tmp_path, values="float32")
    assert choose_tail(batch) == "bucket"
    cases: tuple[dict[str, Any], ...] = (
        {},
        {"ce_weight": 0.3},
        {"tail": "renormalize", "temperature": 2.0, "ce_weight": 0.3},
        {"tail": "renormalize", "divergence": "jsd"},
        {"divergence": "reverse_kl", "temperature": 2.0},
    )
    for options in cases:
        floor = distillation_floor(batch, **options)
        expected = distillation_loss(logits, batch, **options)
        torch.testing.assert_close(floor, expected, atol=2e-5, rtol=1e-5)
        assert (floor > 1e-3) == (options.keys() & {"tail", "ce_weight"} != set())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tail": "uniform"}, "whose floor the store tells"),
        ({"tail": "renormalise"}, "tail: expected one of 'bucket'"),
        ({"ce_weight": 0.5}, "ce_weight: expected targets with the label's logit"),
    ],
)
def test_a_floor_that_a_store_does_not_tell_is_refused(
    rng: np.random.Generator, options: dict[str, Any], message: str
) -> None:
    batch = collate([make_window(rng, KINDS["topk"])[0]])
    batch.pop("label_logit", None)
    with pytest.raises(InputError, match=message):
        distillation_floor(batch, **options)
