"""Small students that differ in their targets alone, and what each has learned of held-out text.

Shapes: B batch, L tokens, N positions with a target, V vocabulary, D width, W held-out windows,
M measures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from softtargets.fidelity.sample import TeacherSample
from softtargets.stream.collate import collate
from softtargets.targets import Float64
from softtargets.train.full import OutputHead
from softtargets.train.fused import fused_distillation_loss
from softtargets.train.sparse import Tail
from softtargets.window import TokenWindow, Window

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MEASURES = ("cross-entropy", "KL to the teacher", "calibration error", "acceptance")
"""Of a student on held-out text; acceptance is 1 less the total variation from the teacher, how
often speculative decoding would accept the student's token."""
_BINS = 15

Loss = Callable[["PreTrainedModel", Sequence[int]], torch.Tensor]
"""The loss of a student on some windows of the training sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How every student is trained."""

    steps: int = 96
    batch_size: int = 2
    learning_rate: float = 1e-2
    warmup_steps: int = 8
    hidden_size: int = 64
    num_layers: int = 2


def make_student(
    vocab_size: int, hidden_size: int, num_layers: int, device: torch.device | str = "cpu"
) -> PreTrainedModel:
    """Return a small Llama with random weights, its output head tied to its embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    student = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=3 * hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=4,
            tie_word_embeddings=True,
        )
    )
    torch.nn.Module.to(student, device)
    return student


def learning_rate_factor(step: int, steps: int, warmup_steps: int) -> float:
    """Return the learning rate's factor: linear warm-up, then a cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps)))


def train_student(
    sample: TeacherSample,
    loss: Loss | Sequence[Loss],
    recipe: Recipe,
    seed: int,
) -> PreTrainedModel:
    """Train a student from scratch, on the teacher's device.

    Its weights and batches depend on the seed alone.

    Args:
        sample: what it learns from; its epochs repeat until the steps are done.
        loss: of a batch; if there are several, one for each epoch in turn.
        recipe: how.
        seed: of the weights and the order.
    """
    torch.manual_seed(seed)
    vocab_size = sample.teacher.vocab_size
    student = make_student(vocab_size, recipe.hidden_size, recipe.num_layers, sample.teacher.device)
    optimizer = torch.optim.AdamW(student.parameters(), lr=recipe.learning_rate)
    rng = np.random.default_rng(seed)
    losses = [loss] if callable(loss) else list(loss)
    order: list[int] = []
    epoch = -1
    for step in range(recipe.steps):
        if len(order) < recipe.batch_size:
            order, epoch = rng.permutation(len(sample.windows)).tolist(), epoch + 1
        places, order = order[: recipe.batch_size], order[recipe.batch_size :]
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * learning_rate_factor(
                step, recipe.steps, recipe.warmup_steps
            )
        losses[epoch % len(losses)](student, places).backward()
        optimizer.step()
        optimizer.zero_grad()
    return student


def stored_loss(
    windows: Sequence[Window],
    tail: Tail,
    *,
    ce_weight: float = 0.0,
    teacher_head: OutputHead | None = None,
) -> Loss:
    """Return the loss on stored targets."""

    def loss(student: PreTrainedModel, places: Sequence[int]) -> torch.Tensor:
        batch = collate([windows[place] for place in places]).to(student.device)
        hidden_BLD = _hidden(student, batch["input_ids"])
        weight_VD = student.get_output_embeddings().weight
        return fused_distillation_loss(
            hidden_BLD, weight_VD, batch, tail=tail, ce_weight=ce_weight, teacher_head=teacher_head
        )

    return loss


def online_loss(sample: TeacherSample) -> Loss:
    """Return KL(teacher || student) over the whole vocabulary; the teacher reads every batch."""

    def loss(student: PreTrainedModel, places: Sequence[int]) -> torch.Tensor:
        windows = [sample.windows[place] for place in places]
        teacher_ND = TeacherSample.read(sample.teacher, windows).hidden_ND
        # An inference tensor may not take part in a graph.
        log_t_NV = sample.teacher.logits(teacher_ND).float().log_softmax(dim=1).clone()
        hidden_ND = student_hidden_states(student, windows)
        log_s_NV = student.get_output_embeddings()(hidden_ND).log_softmax(dim=1)
        total = functional.kl_div(log_s_NV, log_t_NV, reduction="sum", log_target=True)
        return total / len(hidden_ND)

    return loss


def gradient_difference(
    loss: Loss, other: Loss, sample: TeacherSample, recipe: Recipe, seed: int = 0
) -> float:
    """Return how far the gradient of one loss of a new student is from that of another.

    It is the length of their difference on the first batch, to the length of the other.
    """
    torch.manual_seed(seed)
    student = make_student(
        sample.teacher.vocab_size, recipe.hidden_size, recipe.num_layers, sample.teacher.device
    )
    parameters = list(student.parameters())
    places = range(min(recipe.batch_size, len(sample.windows)))
    own, others = (
        torch.cat([one.flatten() for one in torch.autograd.grad(each(student, places), parameters)])
        for each in (loss, other)
    )
    return float((own - others).norm() / others.norm())


@torch.no_grad()
def log_probabilities(sample: TeacherSample) -> list[tuple[slice, torch.Tensor]]:
    """Return rows of a sample and the teacher's log-probabilities [C, V] on the CPU."""
    return [(rows, logits_CV.log_softmax(dim=1).cpu()) for rows, logits_CV in sample.chunks()]


@torch.no_grad()
def evaluate(
    student: PreTrainedModel,
    held_out: TeacherSample,
    log_probs: Sequence[tuple[slice, torch.Tensor]],
) -> Float64:
    """Return the measures of every held-out window [W, M], as means over its targets.

    `log_probs` are the teacher's `log_probabilities` of the held-out windows.

    The calibration error is that of all windows (15 bins of the top probability, Guo et al. 2017),
    the same in each.
    """
    hidden_ND = torch.cat([student_hidden_states(student, [one]) for one in held_out.windows])
    head, labels_N = student.get_output_embeddings(), held_out.labels_N.to(student.device)
    parts = [
        _measures(head(hidden_ND[rows]), teacher_CV.to(student.device), labels_N[rows])
        for rows, teacher_CV in log_probs
    ]
    measured_N5 = torch.cat(parts).double().cpu().numpy()
    lengths = [len(window.mask_T) for window in held_out.windows]
    means_W5 = np.stack(
        [part.mean(axis=0) for part in np.split(measured_N5, np.cumsum(lengths))[:-1]]
    )
    error = _calibration_error(measured_N5[:, 3], measured_N5[:, 4])
    columns = [means_W5[:, 0], means_W5[:, 1], np.full(len(means_W5), error), means_W5[:, 2]]
    return np.stack(columns, axis=1)


def _measures(
    logits_CV: torch.Tensor, log_t_CV: torch.Tensor, labels_C: torch.Tensor
) -> torch.Tensor:
    """Return cross-entropy, KL, acceptance, top probability and whether that is right, [C, 5]."""
    log_s_CV = logits_CV.log_softmax(dim=1)
    t_CV, s_CV = log_t_CV.exp(), log_s_CV.exp()
    top_C = s_CV.max(dim=1)
    columns = (
        -log_s_CV.gather(1, labels_C[:, None])[:, 0],
        (t_CV * (log_t_CV - log_s_CV)).sum(dim=1),
        1 - 0.5 * (t_CV - s_CV).abs().sum(dim=1),
        top_C.values,
        (top_C.indices == labels_C).float(),
    )
    return torch.stack(columns, dim=1)


def _calibration_error(confidence_N: Float64, is_right_N: Float64) -> float:
    bins_N = np.minimum((confidence_N * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins_N, weights=confidence_N - is_right_N, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(confidence_N))


def student_hidden_states(student: PreTrainedModel, windows: Sequence[TokenWindow]) -> torch.Tensor:
    """Return a student's last hidden states [N, D] at the targets of windows, read in one batch."""
    rows = [torch.from_numpy(window.input_ids_L).long() for window in windows]
    hidden_BLD = _hidden(student, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))
    return torch.cat(
        [
            hidden_LD[torch.from_numpy(window.target_positions_T).long()]
            for window, hidden_LD in zip(windows, hidden_BLD, strict=True)
        ]
    )


def _hidden(student: PreTrainedModel, input_ids_BL: torch.Tensor) -> torch.Tensor:
    # Padding stands to the right, where no target sees it.
    decoder = student.get_decoder()
    outputs = decoder(input_ids=input_ids_BL.to(student.device), use_cache=False)
    hidden_BLD: torch.Tensor = outputs.last_hidden_state
    return hidden_BLD
