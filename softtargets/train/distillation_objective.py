"""The objective of `distillation_loss`: by logits, or fused with the student's output head."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from softtargets.errors import InputError
from softtargets.stream.batch import Batch
from softtargets.stream.logits_size import logits_bytes
from softtargets.train.fused import fused_distillation_loss
from softtargets.train.losses import Loss, distillation_loss
from softtargets.train.objective import Fused, Objective, StudentOutputs
from softtargets.train.student_loss import cannot_fuse

FUSED_FROM_BYTES = 1 << 28
"""Logits of a batch, in float32, from which "auto" fuses."""
_SPARSE_FROM_BYTES = 1 << 24
"""The same where at most half of the tokens have a target: the others skip the head then."""


class DistillationObjective(Objective):
    """Distillation by a loss of logits.

    Args:
        loss: of logits and a batch: `distillation_loss`, or a `functools.partial` of it.
        fused: whether it is computed as `fused_distillation_loss` is, so that the logits of a batch
            never exist at once. "auto" does so where they would take 256 MB or more, or 16 MB if at
            most half of the tokens have a target, and loss and student allow it: their logits must
            be those of a Linear head, unchanged.

    Raises:
        InputError: `fused` is True with a loss that it cannot be.
    """

    def __init__(self, loss: Loss = distillation_loss, fused: Fused = "auto") -> None:
        super().__init__()
        function, keywords = _taken_apart(loss)
        if fused not in (True, False, "auto") or function is fused_distillation_loss:
            raise InputError(
                "loss and fused",
                expected='a loss of logits, and True, False or "auto"',
                found=f"{getattr(function, '__name__', function)} and {fused!r}",
                next_step="Pass loss=functools.partial(distillation_loss, ...) and fused=True.",
            )
        is_own = function is not distillation_loss
        if fused is True and is_own:
            raise cannot_fuse("a loss of your own")
        self._fused: Fused = False if is_own else fused
        self._by_logits = loss
        self._by_head: Callable[..., torch.Tensor] = partial(fused_distillation_loss, **keywords)

    def fuses(self, batch: Batch) -> Fused:
        """Return whether the loss is fused, "auto" where the student decides it."""
        if self._fused != "auto":
            return self._fused
        is_sparse = 2 * batch["num_targets"] <= batch["input_ids"].numel()
        least = _SPARSE_FROM_BYTES if is_sparse else FUSED_FROM_BYTES
        is_large = logits_bytes(batch, batch.schema.num_labels) >= least
        return "auto" if is_large and not batch.schema.num_classes else False

    def head_loss(
        self,
        hidden_states: torch.Tensor,
        head: torch.nn.Linear,
        batch: Batch,
        num_targets: float | torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the fused loss."""
        return self._by_head(
            hidden_states, head.weight, batch, head_bias=head.bias, num_targets=num_targets
        )

    def loss(
        self, outputs: StudentOutputs, batch: Batch, num_targets: float | torch.Tensor | None
    ) -> torch.Tensor:
        """Return the loss, which is there already where it was fused."""
        if outputs.head_loss is not None:
            return outputs.head_loss
        assert outputs.logits is not None
        return self._by_logits(outputs.logits, batch, num_targets=num_targets)


def choose_objective(loss: Loss, fused: Fused, objective: Objective | None) -> Objective:
    """Return the objective that an adapter was given, or else that of its loss.

    Raises:
        InputError: both were given, or `fused` is True with a loss that it cannot be.
    """
    if objective is None:
        return DistillationObjective(loss, fused)
    if loss is not distillation_loss or fused != "auto":
        raise InputError(
            "objective, loss and fused",
            expected="an objective, or a loss and fused",
            found="both",
            next_step="Pass objective=DistillationObjective(loss, fused), or a subclass of it.",
        )
    return objective


def _taken_apart(loss: Any) -> tuple[Any, dict[str, Any]]:
    """Return the function of a loss and its keywords, or the loss itself and none."""
    function: Any = loss
    keywords: dict[str, Any] = {}
    while isinstance(function, partial):
        if function.args:
            return loss, {}
        keywords = {**function.keywords, **keywords}
        function = function.func
    return function, keywords
