"""The loss of a student on a batch by an objective, as every adapter computes it.

Where a loss is fused, the student's output head is given another `forward` for one pass: it returns
the loss instead of logits. So the head's weight is used inside that pass, where what wraps the
student (DistributedDataParallel, autocast) expects it, and gradients are synchronised as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, TypeVar

import torch

from softtargets.errors import InputError
from softtargets.layers.recorder import LayerRecords, recording
from softtargets.stream.batch import Batch
from softtargets.stream.logits_size import check_logits_size
from softtargets.train.objective import Objective, StudentOutputs
from softtargets.train.student import check_embeddings

_Result = TypeVar("_Result")

_NOT_RETURNED = frozenset({"logits", "layers"})
"""What of an objective's needs a student returns without being told, and what is recorded."""
_PROBE = 7.0
"""Returned beside the loss: what a student does to its logits after its head changes this too."""


class StudentLoss:
    """The loss of a student on batches.

    Args:
        objective: what it is trained for.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.wrapped: torch.nn.Module = objective
        """What is called for the loss: the objective, or DistributedDataParallel around it."""
        self._probed: torch.nn.Module | None = None
        """The student that does nothing to its logits after its head."""
        self._hindrance: str | None = None
        """Why the student's head cannot be fused with a loss."""

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
            num_targets: see `Objective.loss`.

        Raises:
            InputError: the loss must be fused and the student's head does not allow it, or the
                student does not fit the batch.
            LimitError: the logits of the batch are above the limit.
        """
        check_embeddings(student, batch)
        fused, head = self.objective.fuses(batch), _output_head(student)
        if fused:
            loss = self._fused(model, student, head, batch, num_targets)
            if loss is not None:
                return loss
            if fused is True:
                raise cannot_fuse(self._hindrance)
        if "logits" in self.objective.needs:
            return self.with_outputs(model, student, batch, num_targets)[0]

        def loss_of(found: Any, layers: LayerRecords | None) -> torch.Tensor:
            return self._loss(found, batch, num_targets, layers=layers)

        with nullcontext() if head is None else _replaced(head, _nothing):
            return self._called(model, student, batch, loss_of)

    def with_outputs(
        self,
        model: torch.nn.Module,
        student: torch.nn.Module,
        batch: Batch,
        num_targets: float | torch.Tensor | None,
    ) -> tuple[torch.Tensor, Any]:
        """Return the loss and what the student returned, with all logits; see `__call__`."""
        check_embeddings(student, batch)
        check_logits_size(batch, batch.schema.num_labels)

        def both(found: Any, layers: LayerRecords | None) -> tuple[torch.Tensor, Any]:
            loss = self._loss(found, batch, num_targets, layers=layers, logits=found.logits)
            return loss, found

        return self._called(model, student, batch, both)

    def _called(
        self,
        model: torch.nn.Module,
        student: torch.nn.Module,
        batch: Batch,
        finish: Callable[[Any, LayerRecords | None], _Result],
    ) -> _Result:
        """Return what is made of what a student returns, and of what its layers do if it is needed.

        What its layers do is no part of what it returns. So `finish` is called before the pass
        ends, and the pass returns its result alone: DistributedDataParallel finds the weights that
        have a part in that.
        """
        needs = self.objective.needs
        options = {f"output_{name}": True for name in needs - _NOT_RETURNED}
        if "layers" not in needs:
            return finish(model(**self.objective.inputs(batch), **options), None)
        config: Any = student.config
        with ExitStack() as watching:
            records = watching.enter_context(recording(student, "student", attention=True))

            def finished(_: torch.nn.Module, __: Any, found: Any) -> tuple[_Result]:
                watching.close()
                records.check(config.num_hidden_layers, "student", attention=True)
                return (finish(found, records),)

            with student.register_forward_hook(finished):
                result: tuple[_Result] = model(**self.objective.inputs(batch), **options)
        return result[0]

    def _loss(
        self, found: Any, batch: Batch, num_targets: float | torch.Tensor | None, **of_head: Any
    ) -> torch.Tensor:
        """Return the loss of what a student returned, and of what its head did."""
        needed = {name: getattr(found, name) for name in self.objective.needs - _NOT_RETURNED}
        loss: torch.Tensor = self.wrapped(StudentOutputs(**needed, **of_head), batch, num_targets)
        return loss

    def _fused(
        self,
        model: torch.nn.Module,
        student: torch.nn.Module,
        head: torch.nn.Linear | None,
        batch: Batch,
        num_targets: float | torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Return the fused loss, or None where the student does not allow it."""
        if head is None:
            self._hindrance = "a student without a plain Linear output head"
        if head is None or self._hindrance is not None:
            return None

        def forward(hidden_states: torch.Tensor) -> torch.Tensor:
            loss = self.objective.head_loss(hidden_states, head, batch, num_targets)
            # What is added to every logit of a vocabulary makes more than one of each.
            return torch.stack([loss, torch.full_like(loss, _PROBE)])[:, None, None]

        def loss_of(found: Any, layers: LayerRecords | None) -> torch.Tensor | None:
            if not self._is_untouched(student, found.logits):
                return None
            head_loss = found.logits[0, 0, 0]
            return self._loss(found, batch, num_targets, layers=layers, head_loss=head_loss)

        with _replaced(head, forward):
            return self._called(model, student, batch, loss_of)

    def _is_untouched(self, student: torch.nn.Module, logits: torch.Tensor) -> bool:
        """Return whether a student returns what its head did; it is looked at once."""
        if self._probed is not student:
            is_same = logits.shape == (2, 1, 1) and logits.dtype == torch.float32
            if not is_same or logits[1, 0, 0].item() != _PROBE:
                self._hindrance = "a student that changes its logits after its output head"
                return False
            self._probed = student
        return True


class StudentWithObjective(torch.nn.Module):
    """A student and what it is trained for, in a loop of one's own: it makes a loss of a batch.

    Wrap it where you would wrap the student, by DistributedDataParallel or `accelerator.prepare`,
    and give its parameters to the optimizer: they are the student's and the objective's.

    Args:
        student: a model of transformers.
        objective: what it is trained for.
    """

    def __init__(self, student: torch.nn.Module, objective: Objective) -> None:
        super().__init__()
        objective.prepare(student)
        self.student, self.objective = student, objective
        self._student_loss = StudentLoss(objective)

    def forward(
        self, batch: Batch, num_targets: float | torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of a batch; `num_targets` are `batch["step_targets"]` of a loader."""
        return self._student_loss(self.student, self.student, batch, num_targets)


def cannot_fuse(hindrance: str | None) -> InputError:
    """Return the error that says why a loss cannot be fused, though it must be."""
    return InputError(
        "fused=True",
        expected="distillation_loss, or a functools.partial of it by keywords, and a student whose "
        "logits are what its output head, a torch.nn.Linear, returns",
        found=f"{hindrance}",
        next_step='Pass fused="auto" or fused=False, and a small enough batch.',
    )


def _output_head(student: torch.nn.Module) -> torch.nn.Linear | None:
    """Return a student's output head if it is a product with a weight, and nothing else."""
    head = getattr(student, "get_output_embeddings", lambda: None)()
    if not isinstance(head, torch.nn.Linear) or type(head).forward is not torch.nn.Linear.forward:
        return None
    return None if "forward" in vars(head) else head


def _nothing(hidden_states: torch.Tensor) -> torch.Tensor:
    """Return something that takes no time, for logits that nothing reads."""
    return hidden_states.new_zeros((1, 1, 1))


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
