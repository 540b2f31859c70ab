from __future__ import annotations

import itertools

import pytest
import torch

from softtargets.errors import InputError
from softtargets.train import JSD, Divergence, ForwardKL, ReverseKL, SkewKL, SkewReverseKL
from softtargets.train.divergences import needs_mass_everywhere
from softtargets.train.sparse import SparseTargets, Tail
from tests.train.dense import DIVERGENCES, Case, make_case, random_logits, reference

TAILS: list[Tail] = ["bucket", "uniform", "label", "renormalize"]
SHAPES = [(1, 2, 1), (1, 1, 1), (3, 7, 7), (5, 64, 1), (4, 50, 49), (6, 300, 8), (2, 1000, 64)]


def is_sound(divergence: Divergence, tail: Tail) -> bool:
    return tail in ("bucket", "uniform") or not needs_mass_everywhere(divergence)


SOUND = [pair for pair in itertools.product(DIVERGENCES, TAILS) if is_sound(*pair)]


def losses_of(
    targets: SparseTargets, divergence: Divergence, logits_NV: torch.Tensor
) -> torch.Tensor:
    if targets.tail == "uniform":
        return targets.dense_losses(divergence, logits_NV)
    return targets.losses(divergence, logits_NV.gather(1, targets.ids_NE), logits_NV.logsumexp(1))


def check(
    case: Case, divergence: Divergence, tail: Tail, student_NV: torch.Tensor, atol: float
) -> None:
    """Compare the loss and its gradient with the reference."""
    x_NV = student_NV.clone().requires_grad_()
    found_N = losses_of(case.sparse(tail), divergence, x_NV.float())
    found_N.sum().backward()
    y_NV = student_NV.double().requires_grad_()
    expected_N = reference(case, divergence, tail, y_NV)
    expected_N.sum().backward()
    assert x_NV.grad is not None
    assert y_NV.grad is not None
    torch.testing.assert_close(found_N.double(), expected_N, atol=3e-5, rtol=3e-5)
    torch.testing.assert_close(x_NV.grad.double(), y_NV.grad, atol=atol, rtol=0.01)


@pytest.mark.parametrize(("divergence", "tail"), SOUND)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_against_the_definition_in_float64(
    shape: tuple[int, int, int],
    scale: float,
    dtype: torch.dtype,
    divergence: Divergence,
    tail: Tail,
) -> None:
    num_positions, vocab_size, k = shape
    case = make_case(random_logits(num_positions, vocab_size, scale, seed=0), k)
    student_NV = random_logits(num_positions, vocab_size, scale, seed=1).to(dtype)
    # A gradient in bfloat16 is rounded to 8 bits.
    check(case, divergence, tail, student_NV, atol=2e-5 if dtype == torch.float32 else 5e-3)


@pytest.mark.parametrize(("divergence", "tail"), SOUND)
@pytest.mark.parametrize("what", ["mass 1", "peaked student", "-inf teacher", "-inf both"])
def test_never_nan(what: str, divergence: Divergence, tail: Tail) -> None:
    teacher_NV, student_NV = random_logits(3, 12, 1.0, seed=2), torch.zeros((3, 12))
    if what == "mass 1":
        teacher_NV[:, 0] = 500.0
    elif what == "peaked student":
        student_NV[:, 0] = 100.0
        teacher_NV[:, 0] = 20.0
    else:
        teacher_NV[:, 2:] = -torch.inf
        if what == "-inf both":
            student_NV[:, 9:] = -torch.inf
    case = make_case(teacher_NV, 4)
    x_NV = student_NV.requires_grad_()
    found_N = losses_of(case.sparse(tail), divergence, x_NV)
    found_N.sum().backward()
    assert torch.isfinite(found_N).all()
    assert x_NV.grad is not None
    assert torch.isfinite(x_NV.grad).all()


def test_the_gradients_are_those_in_the_literature() -> None:
    """s_j - t_j on K for all; off it s_j (1 - R_t / R_s), s_j, s_j - t_hat_j."""
    case = make_case(random_logits(4, 50, 3.0, seed=0), 6)
    student_NV = random_logits(4, 50, 1.0, seed=1)
    s_NV, t_NV = student_NV.softmax(dim=1), case.logits_NV.softmax(dim=1)
    is_kept_NV = torch.zeros_like(t_NV, dtype=torch.bool).scatter_(1, case.ids_NK, True)
    rest_N1 = (t_NV * ~is_kept_NV).sum(dim=1, keepdim=True)
    student_rest_N1 = (s_NV * ~is_kept_NV).sum(dim=1, keepdim=True)
    label_NV = torch.zeros_like(t_NV).scatter_(1, case.labels_N[:, None], 1.0)
    expected = {
        "bucket": torch.where(is_kept_NV, s_NV - t_NV, s_NV * (1 - rest_N1 / student_rest_N1)),
        "renormalize": s_NV - is_kept_NV * t_NV / (1 - rest_N1),
        "label": s_NV - is_kept_NV * t_NV - label_NV * rest_N1,
        "uniform": s_NV - torch.where(is_kept_NV, t_NV, rest_N1 / 44),
    }
    for tail in TAILS:
        x_NV = student_NV.clone().requires_grad_()
        losses_of(case.sparse(tail), ForwardKL(), x_NV).sum().backward()
        torch.testing.assert_close(x_NV.grad, expected[tail], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_lower_bound_that_rises_to_the_full_divergence(divergence: Divergence) -> None:
    teacher_NV, student_NV = (random_logits(20, 40, scale, seed=3) for scale in (3.0, 2.0))
    student_NV = student_NV.roll(3, dims=1)
    values = [
        losses_of(make_case(teacher_NV, k).sparse("bucket"), divergence, student_NV)
        for k in (1, 2, 5, 10, 20, 39, 40)
    ]
    for fewer, more in itertools.pairwise(values):
        assert (more - fewer > -1e-5).all()
    assert (values[0] >= -1e-6).all()
    assert (values[-2] - values[0] > 0.01).any()
    full_N = reference(make_case(teacher_NV, 40), divergence, "bucket", student_NV.double())
    torch.testing.assert_close(values[-1].double(), full_N, atol=2e-5, rtol=2e-5)


def test_renormalised_targets_have_another_optimum() -> None:
    """At the teacher itself the gradient of the bucket is zero, and that of t / a is not."""
    case = make_case(random_logits(8, 100, 2.0, seed=4), 10)
    norms = {}
    for tail in TAILS:
        x_NV = case.logits_NV.clone().requires_grad_()
        losses_of(case.sparse(tail), ForwardKL(), x_NV).sum().backward()
        assert x_NV.grad is not None
        norms[tail] = x_NV.grad.norm().item()
    assert norms["bucket"] < 1e-5
    assert all(norms[tail] > 0.1 for tail in ("renormalize", "label", "uniform"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JSD(-0.1), "JSD, beta: expected a number from 0 to 1; found -0.1"),
        (lambda: JSD(1.1), "JSD, beta"),
        (lambda: SkewKL(0.0), "SkewKL, alpha: expected a number between 0 and 1; found 0.0"),
        (lambda: SkewReverseKL(1.0), "SkewReverseKL, alpha"),
    ],
)
def test_shares_out_of_range_are_refused(make: type, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_what_is_infinite_without_mass() -> None:
    infinite = [one for one in DIVERGENCES if needs_mass_everywhere(one)]
    assert infinite == [ReverseKL(), JSD(1.0)]
