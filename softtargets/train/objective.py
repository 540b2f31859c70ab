"""What a student is trained for: what it is fed, which of its outputs count, and their loss.

Every adapter trains for an objective. `DistillationObjective` is the one that they make of their
arguments `loss` and `fused`; a loss of layers is another subclass of `Objective`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from softtargets.layers.recorder import LayerRecords
from softtargets.stream.batch import Batch
from softtargets.train.student import student_inputs

Output = Literal["logits", "hidden_states", "attentions", "layers"]
Fused = bool | Literal["auto"]
"""Whether a loss is fused with the output head; with "auto", where the student allows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentOutputs:
    """What a student returned of what an objective needs, as transformers has it."""

    logits: torch.Tensor | None = None
    """[B, L, V]; None where they are not needed, or fused with the loss."""
    hidden_states: tuple[torch.Tensor, ...] = ()
    """[B, L, D] each: the embeddings, then every layer's."""
    attentions: tuple[torch.Tensor, ...] = ()
    """[B, A, L, L] of every layer, after the softmax."""
    layers: LayerRecords | None = None
    """What went through its layers: their inputs and outputs, and their attention before the
    softmax."""
    head_loss: torch.Tensor | None = None
    """What `Objective.head_loss` returned, where it stands for the logits."""


class Objective(torch.nn.Module):
    """What a trainer minimises. A subclass needs a method `loss` at least.

    Its own parameters, such as a projection between two widths, are trained with the student's, and
    saved and resumed with the trainer's checkpoint.
    """

    needs: frozenset[Output] = frozenset({"logits"})
    """What the student must return. Without logits its output head does not run."""

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return the arguments by which the student is called."""
        return student_inputs(batch)

    def prepare(self, student: torch.nn.Module) -> None:
        """Make what depends on the student, such as a projection from its width.

        Adapters call it before they look for parameters. Called again, it changes nothing.

        Raises:
            InputError: it cannot be trained for such a student.
        """

    def advance(self, share: float) -> None:
        """Take note that a share of the training is done, from 0 to below 1.

        The Trainer of transformers calls it before each optimizer step.
        """

    def loss(
        self, outputs: StudentOutputs, batch: Batch, num_targets: float | torch.Tensor | None
    ) -> torch.Tensor:
        """Return the sum over the targets of a batch, divided by `num_targets`, a scalar.

        Args:
            outputs: what the student returned for `inputs`.
            batch: what it was fed.
            num_targets: those of the optimizer step, see `softtargets.train.losses.Loss`; None for
                the batch's own.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method loss")

    def fuses(self, batch: Batch) -> Fused:
        """Return whether `head_loss` shall stand for the logits of a batch."""
        return False

    def head_loss(
        self,
        hidden_states: torch.Tensor,
        head: torch.nn.Linear,
        batch: Batch,
        num_targets: float | torch.Tensor | None,
    ) -> torch.Tensor:
        """Return what is computed in the output head's place, a scalar.

        Args:
            hidden_states: [B, L, D], what the head is given.
            head: the student's output head.
            batch: see `loss`.
            num_targets: see `loss`.
        """
        raise NotImplementedError(f"{type(self).__name__} fuses, and has no method head_loss")

    def forward(
        self, outputs: StudentOutputs, batch: Batch, num_targets: float | torch.Tensor | None
    ) -> torch.Tensor:
        """Return the loss, so that DistributedDataParallel may wrap an objective."""
        return self.loss(outputs, batch, num_targets)
