"""Two students alike in all but their loss, and what each has learned of held-out text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from softtargets.capture.teacher import Teacher
from softtargets.fidelity.sample import TeacherSample
from softtargets.fidelity.students import learning_rate_factor, make_student, student_hidden_states
from softtargets.store import Store
from softtargets.stream import Batch, SoftTargetDataset, collate
from softtargets.train import distillation_loss, student_inputs
from softtargets.window import TokenWindow

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
    """Windows no student trains on, and what the teacher says of them."""

    sample: TeacherSample

    @classmethod
    def score(cls, windows: Sequence[TokenWindow], teacher: Teacher) -> HeldOut:
        """Run a loaded teacher over the windows."""
        return cls(sample=TeacherSample.read(teacher, windows))

    @property
    def windows(self) -> Sequence[TokenWindow]:
        """Return the windows."""
        return self.sample.windows

    @torch.inference_mode()
    def evaluate(self, student: PreTrainedModel, step: int) -> Point:
        """Return mean cross-entropy and mean KL(teacher || student) over the whole vocabulary."""
        hidden_ND = torch.cat([student_hidden_states(student, [one]) for one in self.windows])
        head, labels_N = student.get_output_embeddings(), self.sample.labels_N
        cross_entropy = divergence = 0.0
        for rows, logits_CV in self.sample.chunks():
            teacher_CV = logits_CV.log_softmax(dim=1).to(student.device)
            logprobs_CV = head(hidden_ND[rows]).log_softmax(dim=1)
            cross_entropy += functional.nll_loss(
                logprobs_CV, labels_N[rows], reduction="sum"
            ).item()
            divergence += functional.kl_div(
                logprobs_CV, teacher_CV, reduction="sum", log_target=True
            ).item()
        return Point(
            step=step,
            cross_entropy=cross_entropy / len(self.sample),
            kl_to_teacher=divergence / len(self.sample),
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
    points: list[Point] = []
    seconds = 0.0
    for step, batch in enumerate(islice(_batches(store, recipe), recipe.steps), start=1):
        started = time.perf_counter()
        logits_BLV = student(**student_inputs(batch)).logits
        distillation_loss(logits_BLV, batch, ce_weight=ce_weight).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        seconds += time.perf_counter() - started
        on_step(step)
        if step % (recipe.steps // recipe.evaluations) == 0:
            points.append(held_out.evaluate(student, step))
    return Trained(name=name, ce_weight=ce_weight, points=tuple(points), seconds=seconds)


def _batches(store: Store, recipe: Recipe) -> Iterator[Batch]:
    """Yield the batches of one epoch after another."""
    dataset = SoftTargetDataset(store, shuffle=True, seed=recipe.seed)
    loader = DataLoader(dataset, batch_size=recipe.batch_size, collate_fn=collate, drop_last=True)
    for epoch in count():
        dataset.set_epoch(epoch)
        yield from loader
