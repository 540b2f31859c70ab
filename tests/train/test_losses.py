from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from softtargets import collate, distillation_loss
from softtargets.errors import InputError, TemperatureError
from softtargets.stream import Batch
from softtargets.train import forward_kl
from softtargets.window import Window
from tests.windows import make_window, select_in_numpy


def reference_kl(
    teacher_NV: torch.Tensor, student_NV: torch.Tensor, ids_NK: torch.Tensor
) -> torch.Tensor:
    """The bucketed divergence by its definition, dense and in float64."""
    t_NV, s_NV = teacher_NV.double().softmax(dim=1), student_NV.double().softmax(dim=1)
    outside_NV = torch.ones_like(t_NV, dtype=torch.bool).scatter(1, ids_NK, False)
    t_N1, s_N1 = ((p * outside_NV).sum(dim=1, keepdim=True) for p in (t_NV, s_NV))
    t = torch.cat([t_NV.gather(1, ids_NK), t_N1], dim=1)
    s = torch.cat([s_NV.gather(1, ids_NK), s_N1], dim=1)
    return torch.where(t > 0, t * (t.clamp_min(1e-300).log() - s.clamp_min(1e-300).log()), 0).sum(1)


def sparse(
    teacher_NV: torch.Tensor, k: int, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    labels = np.zeros(len(teacher_NV), np.int64)
    targets = select_in_numpy(teacher_NV.numpy(), labels, k, (temperature,))
    return (
        torch.from_numpy(targets.ids_TK).long(),
        torch.from_numpy(targets.logprobs_TK(temperature)),
        torch.from_numpy(targets.tail_logmass_T(temperature)),
    )


@pytest.mark.parametrize(
    ("positions", "vocab_size", "k"),
    [(1, 1, 1), (3, 2, 1), (4, 7, 7), (5, 7, 6), (17, 301, 1), (9, 301, 64), (2, 1000, 999)],
)
@pytest.mark.parametrize("scale", [0.0, 1.0, 6.0])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-5), (torch.bfloat16, 1e-3)])
def test_value_and_gradient_against_a_dense_reference(
    positions: int, vocab_size: int, k: int, scale: float, dtype: torch.dtype, atol: float
) -> None:
    generator = torch.Generator().manual_seed(vocab_size * k)
    teacher_NV = scale * torch.randn((positions, vocab_size), generator=generator)
    student_NV = torch.randn((positions, vocab_size), generator=generator).to(dtype)
    ids_NK, logprobs_NK, tail_N = sparse(teacher_NV, k)
    x = student_NV.clone().requires_grad_()
    found_N = forward_kl(x.float(), ids_NK, logprobs_NK, tail_N)
    found_N.sum().backward()
    y = student_NV.double().requires_grad_()
    expected_N = reference_kl(teacher_NV, y, ids_NK)
    expected_N.sum().backward()
    torch.testing.assert_close(found_N.double(), expected_N, atol=2e-5, rtol=2e-5)
    assert x.grad is not None
    assert y.grad is not None
    torch.testing.assert_close(x.grad.double(), y.grad, atol=atol, rtol=0.01)


def test_the_gradient_is_the_one_in_the_literature() -> None:
    """s_j - t_j on K; s_j (1 - R_t / R_s) off K."""
    generator = torch.Generator().manual_seed(0)
    teacher_NV = 3 * torch.randn((4, 50), generator=generator)
    x = torch.randn((4, 50), generator=generator, requires_grad=True)
    ids_NK, logprobs_NK, tail_N = sparse(teacher_NV, 6)
    forward_kl(x, ids_NK, logprobs_NK, tail_N).sum().backward()
    s_NV = x.detach().softmax(dim=1)
    student_tail_N1 = 1 - s_NV.gather(1, ids_NK).sum(dim=1, keepdim=True)
    expected_NV = s_NV * (1 - tail_N.exp()[:, None] / student_tail_N1)
    expected_NV.scatter_(1, ids_NK, s_NV.gather(1, ids_NK) - logprobs_NK.exp())
    torch.testing.assert_close(x.grad, expected_NV, atol=1e-5, rtol=1e-4)


def test_a_lower_bound_that_rises_to_the_full_divergence() -> None:
    generator = torch.Generator().manual_seed(1)
    teacher_NV = 3 * torch.randn((20, 40), generator=generator)
    student_NV = 2 * torch.randn((20, 40), generator=generator)
    values = [forward_kl(student_NV, *sparse(teacher_NV, k)) for k in (1, 2, 5, 10, 20, 39, 40)]
    for fewer, more in itertools.pairwise(values):
        assert (more - fewer > -1e-5).all()
    full_N = functional.kl_div(
        student_NV.log_softmax(1), teacher_NV.log_softmax(1), reduction="none", log_target=True
    ).sum(1)
    torch.testing.assert_close(values[-1], full_N, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", ["mass 1", "peaked student", "-inf teacher", "-inf student"])
def test_never_nan(case: str) -> None:
    teacher_NV = torch.randn((3, 12), generator=torch.Generator().manual_seed(2))
    student_NV = torch.zeros((3, 12))
    if case == "mass 1":
        teacher_NV[:, 0] = 500.0
    elif case == "peaked student":
        student_NV[:, 0] = 500.0
        teacher_NV[:, 0] = 20.0
    elif case == "-inf teacher":
        teacher_NV[:, 2:] = -torch.inf
    else:
        # Ids the teacher gives no mass either: the student's padding, say.
        teacher_NV[:, 9:] = student_NV[:, 9:] = -torch.inf
    x = student_NV.requires_grad_()
    loss = forward_kl(x, *sparse(teacher_NV, 4))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def windows_of(rng: np.random.Generator, *lengths: int) -> list[Window]:
    return [make_window(rng, num_tokens=length)[0] for length in lengths]


def logits_for(batch: Batch, vocab_size: int = 300) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    shape = (*batch["input_ids"].shape, vocab_size)
    return torch.randn(shape, generator=generator, requires_grad=True)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("ce_weight", [0.0, 0.3, 1.0])
def test_the_loss_is_the_mean_over_the_targets(
    rng: np.random.Generator, temperature: float, ce_weight: float
) -> None:
    windows = windows_of(rng, 5, 3, 9)
    windows[0].mask_T[2] = False
    batch = collate(windows)
    logits = logits_for(batch)
    values = []
    for row, window in enumerate(windows):
        targets = window.targets
        for t in np.flatnonzero(window.mask_T):
            kl = forward_kl(
                logits[row, t][None] / temperature,
                torch.from_numpy(targets.ids_TK[t][None]).long(),
                torch.from_numpy(targets.logprobs_TK(temperature)[t][None]),
                torch.from_numpy(targets.tail_logmass_T(temperature)[t][None]),
            )
            label = torch.tensor([int(window.input_ids_L[t + 1])])
            ce = functional.cross_entropy(logits[row, t][None], label)
            values.append((1 - ce_weight) * temperature**2 * kl[0] + ce_weight * ce)
    assert len(values) == 2 + 8 + 3
    found = distillation_loss(logits, batch, temperature=temperature, ce_weight=ce_weight)
    torch.testing.assert_close(found, torch.stack(values).mean(), atol=1e-4, rtol=1e-5)


def test_plain_cross_entropy_is_that_of_transformers(rng: np.random.Generator) -> None:
    batch = collate(windows_of(rng, 5, 3, 9))
    logits = logits_for(batch)
    expected = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
    )
    torch.testing.assert_close(distillation_loss(logits, batch, ce_weight=1.0), expected)


def test_padding_and_batching_change_nothing(rng: np.random.Generator) -> None:
    windows = windows_of(rng, 4, 9)
    logits = logits_for(collate(windows))
    alone = [
        distillation_loss(logits[row : row + 1, : len(window)], collate([window]))
        for row, window in enumerate(windows)
    ]
    together = distillation_loss(logits, collate(windows))
    torch.testing.assert_close(together, (3 * alone[0] + 8 * alone[1]) / 11)


def test_a_batch_without_targets_gives_zero(rng: np.random.Generator) -> None:
    windows = windows_of(rng, 4)
    windows[0].mask_T[:] = False
    batch = collate(windows)
    for ce_weight in (0.0, 0.5, 1.0):
        logits = logits_for(batch)
        loss = distillation_loss(logits, batch, ce_weight=ce_weight)
        loss.backward()
        assert loss.item() == 0
        assert logits.grad is not None
        assert (logits.grad == 0).all()


def test_a_shift_by_one_is_much_worse(rng: np.random.Generator) -> None:
    """The negative control of the position convention."""
    windows = windows_of(rng, 9, 9)
    batch = collate(windows)
    targets = batch.soft_targets()
    perfect = (targets.tail_logmass - np.log(300 - 8))[..., None].repeat(1, 1, 300)
    perfect.scatter_(2, targets.ids, targets.logprobs)
    assert distillation_loss(perfect, batch).item() == pytest.approx(0, abs=1e-5)
    assert distillation_loss(perfect.roll(1, dims=1), batch) > 1
    assert distillation_loss(perfect.roll(-1, dims=1), batch) > 1


def test_a_larger_student_vocabulary_is_accepted(rng: np.random.Generator) -> None:
    batch = collate(windows_of(rng, 5))
    padded = functional.pad(logits_for(batch), (0, 20), value=-1e4)
    torch.testing.assert_close(
        distillation_loss(padded, batch), distillation_loss(logits_for(batch), batch)
    )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 5, 299), "at least the teacher's vocabulary of 300 columns; found 299"),
        ((1, 4, 300), r"shape \[1, 5, V\].*found \[1, 4, 300\]"),
        ((5, 300), r"found \[5, 300\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    rng: np.random.Generator, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        distillation_loss(torch.zeros(shape), collate(windows_of(rng, 5)))


def test_options_out_of_range_are_refused(rng: np.random.Generator) -> None:
    batch = collate(windows_of(rng, 5))
    with pytest.raises(InputError, match=r"ce_weight: expected a number from 0 to 1; found 1\.5"):
        distillation_loss(logits_for(batch), batch, ce_weight=1.5)
    with pytest.raises(TemperatureError, match=r"temperature 1\.5"):
        distillation_loss(logits_for(batch), batch, temperature=1.5)
