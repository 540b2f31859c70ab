"""The loss of a student on a batch, as the trainers' adapters compute it: by logits, or fused.

Fused, the student's output head is given another `forward` for one pass: it returns the loss
instead of logits. So the head's weight is used inside that pass, where what wraps the student
(DistributedDataParallel, autocast) expects it, and gradients are synchronised as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch

from softtargets.errors import InputError
from softtargets.stream.batch import Batch
from softtargets.stream.logits_size import check_logits_size, logits_bytes
from softtargets.train.fused import fused_distillation_loss
from softtargets.train.losses import distillation_loss
from softtargets.train.student import Loss, check_embeddings, student_inputs

Fused = bool | Literal["auto"]
"""Whether a loss is fused with the output head; "auto" where logits are many and it can be."""
FUSED_FROM_BYTES = 1 << 28
"""Logits of a batch, in float32, from which "auto" fuses."""
_PROBE = 7.0
"""Returned beside the loss: what a student does to its logits after its head changes this too."""


class StudentLoss:
    """The loss of a student on batches; see `DistillationTrainer` for the arguments.

    Raises:
        InputError: `fused` is True with a loss that it cannot be.
    """

    def __init__(self, loss: Loss, fused: Fused) -> None:
        function, keywords = _taken_apart(loss)
        if fused not in (True, False, "auto") or function is fused_distillation_loss:
            raise InputError(
                "loss and fused",
                expected='a loss of logits, and True, False or "auto"',
                found=f"{getattr(function, '__name__', function)} and {fused!r}",
                next_step="Pass loss=functools.partial(distillation_loss, ...) and fused=True.",
            )
        self._by_logits, self._fused = loss, fused
        self._by_head: Callable[..., torch.Tensor] = partial(fused_distillation_loss, **keywords)
        self._probed: torch.nn.Module | None = None
        """The student that does nothing to its logits after its head."""
        self._hindrance = None if function is distillation_loss else "a loss of your own"
        if fused is True:
            self._check_hindrance()

    def __call__(
        self,
        model: torch.nn.Module,
        student: torch.nn.Module,
        batch: Batch,
        num_targets: float | torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the sum over the targets of a batch, divided by `num_targets`.

        Args:
            model: what is called, the student or what wraps it.
            student: the model of transformers.
            batch: what it reads.
            num_targets: see `distillation_loss`.

        Raises:
            InputError: `fused` is True and the student's head does not allow it, or the student
                does not fit the batch.
            LimitError: the logits of the batch are above the limit.
        """
        check_embeddings(student, batch)
        num_ids = batch["vocab_size"]
        if self._fused is True or (
            self._fused and logits_bytes(batch, num_ids) >= FUSED_FROM_BYTES
        ):
            loss = self._try_fused(model, student, batch, num_targets)
            if loss is not None:
                return loss
        return self.with_outputs(model, student, batch, num_targets)[0]

    def with_outputs(
        self,
        model: torch.nn.Module,
        student: torch.nn.Module,
        batch: Batch,
        num_targets: float | torch.Tensor | None,
    ) -> tuple[torch.Tensor, Any]:
        """Return the loss and what the student returned, with all logits; see `__call__`."""
        check_embeddings(student, batch)
        check_logits_size(batch, batch["vocab_size"])
        outputs = model(**student_inputs(batch))
        return self._by_logits(outputs.logits, batch, num_targets=num_targets), outputs

    def _try_fused(
        self,
        model: torch.nn.Module,
        student: torch.nn.Module,
        batch: Batch,
        num_targets: float | torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Return the fused loss, or None where "auto" is to go by logits."""
        head = _output_head(student)
        if head is None:
            self._hindrance = self._hindrance or "a student without a plain Linear output head"
        if self._hindrance is not None or head is None:
            self._check_hindrance()
            return None

        def forward(hidden_states: torch.Tensor) -> torch.Tensor:
            loss = self._by_head(
                hidden_states, head.weight, batch, head_bias=head.bias, num_targets=num_targets
            )
            return torch.stack([loss, torch.full_like(loss, _PROBE)])[None, None]

        with _replaced(head, forward):
            found = model(**student_inputs(batch)).logits
        if self._probed is not student:
            is_untouched = found.shape == (1, 1, 2) and found.dtype == torch.float32
            if not is_untouched or found[0, 0, 1].item() != _PROBE:
                self._hindrance = "a student that changes its logits after its output head"
                self._check_hindrance()
                return None
            self._probed = student
        loss: torch.Tensor = found[0, 0, 0]
        return loss

    def _check_hindrance(self) -> None:
        """Check that nothing is in the way of fusing, if it must be."""
        if self._fused is True and self._hindrance is not None:
            raise InputError(
                "fused=True",
                expected="distillation_loss, or a functools.partial of it by keywords, and a "
                "student whose logits are what its output head, a torch.nn.Linear, returns",
                found=self._hindrance,
                next_step='Pass fused="auto" or fused=False, and a small enough batch.',
            )


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


def _output_head(student: torch.nn.Module) -> torch.nn.Linear | None:
    """Return a student's output head if it is a product with a weight, and nothing else."""
    head = getattr(student, "get_output_embeddings", lambda: None)()
    if not isinstance(head, torch.nn.Linear) or type(head).forward is not torch.nn.Linear.forward:
        return None
    return None if "forward" in vars(head) else head


@contextmanager
def _replaced(
    head: torch.nn.Linear, forward: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """Let an output head compute something else."""
    vars(head)["forward"] = forward
    try:
        yield
    finally:
        del vars(head)["forward"]
