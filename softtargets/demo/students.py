"""Two students alike in all but their loss, and what each has learned of held-out text."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from softtargets.capture.teacher import Teacher
from softtargets.fidelity.students import learning_rate_factor, make_student
from softtargets.store import Store
from softtargets.stream import SoftTargetDataset, collate
from softtargets.train import distillation_loss, student_inputs
from softtargets.window import TokenWindow

_EVALUATE_POSITIONS = 256
"""Positions whose full distributions are held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a student is trained; both are trained in the same way."""

    steps: int = 72
    batch_size: int = 4
    evaluations: int = 3
    learning_rate: float = 3e-3
    warmup_steps: int = 10
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A student on held-out text after some steps; both in nats a token."""

    step: int
    cross_entropy: float
    kl_to_teacher: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What came of one student."""

    name: str
    ce_weight: float
    points: tuple[Point, ...]
    seconds: float
    """Of training alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Windows no student trains on, with the teacher's hidden states at their T positions."""

    windows: Sequence[TokenWindow]
    hidden_TD: Sequence[torch.Tensor]
    teacher: Teacher

    @classmethod
    def score(cls, windows: Sequence[TokenWindow], teacher: Teacher) -> HeldOut:
        """Run a loaded teacher over the windows."""
        hidden_TD = [teacher.hidden_states(_input_ids(window))[0, :-1] for window in windows]
        return cls(windows=windows, hidden_TD=hidden_TD, teacher=teacher)

    @torch.inference_mode()
    def evaluate(self, student: PreTrainedModel, step: int) -> Point:
        """Return mean cross-entropy and mean KL(teacher || student) over the whole vocabulary."""
        cross_entropy, divergence, count = 0.0, 0.0, 0
        for window, hidden_TD in zip(self.windows, self.hidden_TD, strict=True):
            logits_TV = student(input_ids=_input_ids(window)).logits[0, :-1]
            labels_T = _input_ids(window)[0, 1:]
            cross_entropy += functional.cross_entropy(logits_TV, labels_T, reduction="sum").item()
            count += len(labels_T)
            for hidden_CD, logits_CV in zip(
                hidden_TD.split(_EVALUATE_POSITIONS),
                logits_TV.split(_EVALUATE_POSITIONS),
                strict=True,
            ):
                divergence += functional.kl_div(
                    logits_CV.log_softmax(dim=1),
                    self.teacher.logits(hidden_CD).float().log_softmax(dim=1),
                    reduction="sum",
                    log_target=True,
                ).item()
        return Point(
            step=step, cross_entropy=cross_entropy / count, kl_to_teacher=divergence / count
        )


def train_student(
    name: str,
    store: Store,
    held_out: HeldOut,
    *,
    ce_weight: float,
    recipe: Recipe,
    on_step: Callable[[int], None] = lambda _: None,
) -> Trained:
    """Train a small Llama with the teacher's vocabulary on a store, from scratch.

    `ce_weight` 1 is plain cross-entropy on the labels, 0 is soft targets alone; everything else is
    the same for the same recipe: initial weights, batches, order, steps.
    """
    torch.manual_seed(recipe.seed)
    student = make_student(store.targets.vocab_size, hidden_size=128, num_layers=2)
    optimizer = torch.optim.AdamW(student.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, recipe.steps, recipe.warmup_steps)
    )
    dataset = SoftTargetDataset(store, shuffle=True, seed=recipe.seed)
    loader = DataLoader(dataset, batch_size=recipe.batch_size, collate_fn=collate, drop_last=True)
    evaluate_every = recipe.steps // recipe.evaluations
    points: list[Point] = []
    step, epoch, seconds = 0, 0, 0.0
    while step < recipe.steps:
        dataset.set_epoch(epoch)
        for batch in loader:
            started = time.perf_counter()
            logits_BLV = student(**student_inputs(batch)).logits
            loss = distillation_loss(logits_BLV, batch, ce_weight=ce_weight)
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            seconds += time.perf_counter() - started
            step += 1
            on_step(step)
            if step % evaluate_every == 0:
                points.append(held_out.evaluate(student, step))
            if step == recipe.steps:
                break
        epoch += 1
    return Trained(name=name, ce_weight=ce_weight, points=tuple(points), seconds=seconds)


def _input_ids(window: TokenWindow) -> torch.Tensor:
    return torch.from_numpy(window.input_ids_L.astype(np.int64))[None]
