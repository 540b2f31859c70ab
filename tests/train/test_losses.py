from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from softtargets import collate, distillation_loss
from softtargets.errors import InputError, TemperatureError
from softtargets.stream import Batch
from softtargets.train import JSD, ForwardKL, ReverseKL, SkewKL, fused_distillation_loss
from softtargets.train.entropy import estimated_entropy
from softtargets.train.sparse import SparseTargets
from softtargets.window import Window
from tests.windows import KINDS, make_window


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
            own = SparseTargets(
                ids_NE=torch.from_numpy(targets.ids_TK[t][None]).long(),
                log_targets_NE=torch.from_numpy(targets.logprobs_TK(temperature)[t][None]),
                log_rest_N=torch.from_numpy(targets.tail_logmass_T(temperature)[t][None]),
                tail="bucket",
            )
            scaled = logits[row, t][None] / temperature
            kl = own.losses(ForwardKL(), scaled.gather(1, own.ids_NE), scaled.logsumexp(1))
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


def fused(logits: torch.Tensor, batch: Batch, **options: Any) -> torch.Tensor:
    """Return the fused loss of the same logits."""
    return fused_distillation_loss(logits, torch.eye(logits.shape[-1]), batch, **options)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [distillation_loss, fused])
@pytest.mark.parametrize("options", [{"ce_weight": 0.5}, {"ce_weight": 1.0}, {"tail": "label"}])
@pytest.mark.parametrize("label", [-100, -1, 300, 2**40])
def test_labels_that_a_student_lacks_are_refused(
    rng: np.random.Generator, loss: Any, options: dict[str, Any], label: int
) -> None:
    """On a GPU, to look one up would end every later use of the device."""
    batch = collate(windows_of(rng, 5))
    batch["labels"][0, 3] = label
    message = f"Batch, labels: expected ids from 0 to 299, .* at all targets; found {label}"
    with pytest.raises(InputError, match=message):
        loss(logits_for(batch), batch, **options)
    # Labels that nothing counts may be anything, and so may those without a target.
    assert loss(logits_for(batch), batch).isfinite()
    batch["target_mask"][0, 2] = False
    assert loss(logits_for(batch), batch, **options).isfinite()


@pytest.mark.parametrize("loss", [distillation_loss, fused])
@pytest.mark.parametrize("options", [{}, {"tail": "uniform"}, {"tail": "sampled"}])
def test_entries_that_a_student_lacks_are_refused(
    rng: np.random.Generator, loss: Any, options: dict[str, Any]
) -> None:
    batch = collate([make_window(rng, KINDS["hybrid"], num_tokens=9)[0]])
    name = "sample_ids" if options.get("tail") == "sampled" else "id_plane_1"
    batch[name][0, 3, 0] = 200 if name == "id_plane_1" else -5
    with pytest.raises(InputError, match="Batch, entries: expected ids from 0 to 299"):
        loss(logits_for(batch), batch, **(options or {"tail": "bucket"}))


def test_options_out_of_range_are_refused(rng: np.random.Generator) -> None:
    batch = collate(windows_of(rng, 5))
    with pytest.raises(InputError, match=r"ce_weight: expected a number from 0 to 1; found 1\.5"):
        distillation_loss(logits_for(batch), batch, ce_weight=1.5)
    with pytest.raises(TemperatureError, match=r"temperature 1\.5"):
        distillation_loss(logits_for(batch), batch, temperature=1.5)


def test_drawn_ids_count_with_their_weights(rng: np.random.Generator) -> None:
    """-sum t_hat log s: c / N without a head, exact entries and R c / N with one.

    The teacher's entropy is taken off, which `tests/train/test_entropy.py` is about.
    """
    for kind in ("sampled", "hybrid"):
        windows = [make_window(rng, KINDS[kind], num_tokens=length)[0] for length in (5, 9)]
        batch = collate(windows)
        logits = logits_for(batch)
        values = []
        for row, window in enumerate(windows):
            log_s_TV = logits[row].double().log_softmax(dim=1)
            own = window.targets
            assert own.samples is not None
            at_S = np.repeat(np.arange(len(own)), own.samples.num_samples_T)
            mass_T = own.tail_mass_TG[:, 0] if kind == "hybrid" else np.ones(len(own))
            t_hat_TV = torch.zeros((len(own), 300), dtype=torch.float64)
            shares_S = own.samples.counts_S / KINDS[kind].samples.num_draws * mass_T[at_S]  # type: ignore[union-attr]
            t_hat_TV[at_S, own.samples.ids_S] = torch.from_numpy(shares_S).double()
            head_TK = torch.from_numpy(np.exp(own.logprobs_TK())).double()
            t_hat_TV.scatter_add_(1, torch.from_numpy(own.ids_TK).long(), head_TK)
            torch.testing.assert_close(t_hat_TV.sum(1), torch.ones(len(own)).double())
            values.append(-(t_hat_TV * log_s_TV[: len(own)]).sum(dim=1))
        places_N = batch["target_mask"].flatten().nonzero()[:, 0]
        entropy_N = estimated_entropy(batch, batch.soft_targets(), places_N, 1.0)
        found = distillation_loss(logits, batch) + entropy_N.mean()
        torch.testing.assert_close(found.double(), torch.cat(values).mean(), atol=1e-5, rtol=1e-5)


def test_with_a_head_and_samples_the_tail_may_be_a_bucket(rng: np.random.Generator) -> None:
    window, _ = make_window(rng, KINDS["hybrid"], num_tokens=9)
    batch = collate([window])
    logits = logits_for(batch)
    bucket = distillation_loss(logits, batch, tail="bucket")
    without = {name: value for name, value in batch.items() if not name.startswith("sample")}
    assert torch.equal(bucket, distillation_loss(logits, Batch(without)))
    # What is not linear in the teacher's probabilities takes the bucket by itself.
    jsd = distillation_loss(logits, batch, divergence=JSD(0.5))
    assert torch.equal(jsd, distillation_loss(logits, Batch(without), divergence=JSD(0.5)))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("topk", {"tail": "sampled"}, "tail 'sampled': .* drawn from the teacher; found .* a head"),
        ("sampled", {"tail": "bucket"}, "expected targets with a head of exact entries"),
        ("sampled", {"divergence": JSD(0.5)}, "expected targets with a head of exact entries"),
        ("sampled", {"divergence": SkewKL(), "tail": "sampled"}, "linear .*; found skew KL"),
        ("hybrid", {"divergence": ReverseKL(), "tail": "sampled"}, "linear .*; found reverse KL"),
        ("topk", {"divergence": ReverseKL(), "tail": "label"}, "infinite outside the kept entries"),
        ("topk", {"divergence": JSD(1.0), "tail": "renormalize"}, "infinite outside the kept"),
        ("sampled", {"confidence_power": 1.0}, "confidence_power: expected targets with a head"),
    ],
)
def test_what_does_not_go_together_is_refused(
    rng: np.random.Generator, kind: str, options: dict[str, Any], message: str
) -> None:
    batch = collate([make_window(rng, KINDS[kind])[0]])
    with pytest.raises(InputError, match=message):
        distillation_loss(logits_for(batch), batch, **options)


def test_sure_positions_weigh_more_or_less(rng: np.random.Generator) -> None:
    window, _ = make_window(rng, num_tokens=9)
    batch = collate([window])
    logits = logits_for(batch)
    targets = batch.soft_targets()
    masks = torch.eye(9, dtype=torch.bool)[:8, None]
    each = torch.stack(
        [distillation_loss(logits, Batch({**batch, "target_mask": mask})) for mask in masks]
    )
    top = targets.logprobs[0, :8, 0].exp()
    for power in (2.0, -0.5):
        found = distillation_loss(logits, batch, confidence_power=power)
        torch.testing.assert_close(found, (top**power * each).mean())


@pytest.mark.parametrize("ce_weight", [0.0, 0.4])
def test_the_gradient_does_not_depend_on_how_targets_are_distributed(
    rng: np.random.Generator, ce_weight: float
) -> None:
    """Accumulated over batches, and averaged over ranks as data parallelism does."""
    windows = windows_of(rng, 12, 3, 5, 2)
    windows[0].mask_T[3:] = False
    whole = collate(windows)
    logits = logits_for(whole)
    distillation_loss(logits, whole, ce_weight=ce_weight).backward()
    total = sum(int(window.mask_T.sum()) for window in windows)
    parts = [slice(0, 1), slice(1, 4)]
    for num_ranks in (1, 2):
        grads = []
        for part in parts:
            batch = collate(windows[part])
            own = logits.detach()[part, : batch["input_ids"].shape[1]].requires_grad_()
            number = torch.tensor(total / num_ranks)
            loss = distillation_loss(own, batch, ce_weight=ce_weight, num_targets=number)
            loss.backward()
            assert own.grad is not None
            padding = (0, 0, 0, 12 - own.shape[1])
            grads.append(functional.pad(own.grad, padding) / num_ranks)
        torch.testing.assert_close(torch.cat(grads), logits.grad)
    # The negative control: means of batches with different numbers of targets.
    means = []
    for part in parts:
        batch = collate(windows[part])
        own = logits.detach()[part, : batch["input_ids"].shape[1]].requires_grad_()
        (distillation_loss(own, batch, ce_weight=ce_weight) / 2).backward()
        assert own.grad is not None
        means.append(functional.pad(own.grad, (0, 0, 0, 12 - own.shape[1])))
    assert logits.grad is not None
    assert (torch.cat(means) - logits.grad).norm() > 0.1 * logits.grad.norm()
