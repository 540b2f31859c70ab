"""A Trainer of transformers that minimises an objective, whose parameters are part of its training.

A Trainer knows the student's parameters alone: what it does with those, this one does with the
objective's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer

from softtargets.errors import InputError
from softtargets.stream.batch import Batch
from softtargets.train.distillation_objective import choose_objective
from softtargets.train.losses import Loss, distillation_loss
from softtargets.train.objective import Fused, Objective
from softtargets.train.student_loss import StudentLoss

_FILE = "objective.pt"
"""Of a checkpoint: the objective's parameters, if it has any."""


class ObjectiveTrainer(Trainer):
    """See `softtargets.train.hf_trainer.DistillationTrainer`."""

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *arguments: Any,
        loss: Loss = distillation_loss,
        fused: Fused = "auto",
        objective: Objective | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        if self.compute_loss_func is not None or self.label_smoother is not None:
            raise InputError(
                "DistillationTrainer",
                expected="the loss by its argument `loss`",
                found="compute_loss_func or label_smoothing_factor",
                next_step="Pass loss=functools.partial(distillation_loss, ce_weight=...).",
            )
        chosen = choose_objective(loss, fused, objective)
        chosen.prepare(self.accelerator.unwrap_model(self.model))
        self.objective: Objective = chosen.to(self.args.device)
        self._loss = StudentLoss(self.objective)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the objective's loss of a batch, or the model's own of anything else."""
        if not isinstance(inputs, Batch):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self.objective.train(model.training)
        student = self.accelerator.unwrap_model(model)
        compute = self._loss.with_outputs if return_outputs else self._loss
        return compute(model, student, inputs, num_items_in_batch)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return the optimizer, of the objective's parameters too."""
        optimizer = super().create_optimizer(model)
        known = {id(one) for group in optimizer.param_groups for one in group["params"]}
        own = self._trained()
        missing = [one for one in own if id(one) not in known]
        if missing:
            optimizer.add_param_group({"params": missing})
        if own and self.args.world_size > 1 and self._loss.wrapped is self.objective:
            # What an objective learns need not have a part in the loss at every step.
            self._loss.wrapped = DistributedDataParallel(
                self.objective, find_unused_parameters=True
            )
        return optimizer

    def get_batch_samples(self, *arguments: Any) -> tuple[list[Any], Any]:
        """Begin an optimizer step without the gradients of the last one."""
        self.objective.zero_grad()
        self.objective.advance(self.state.global_step / max(1, self.state.max_steps))
        return super().get_batch_samples(*arguments)

    def _trained(self) -> list[torch.nn.Parameter]:
        """Return the objective's parameters that are trained."""
        return [one for one in self.objective.parameters() if one.requires_grad]

    def _clip_grad_norm(self, model: Any) -> Any:
        if not self._trained():
            return super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        clipped = [*model.parameters(), *self._trained()]
        return self.accelerator.clip_grad_norm_(clipped, self.args.max_grad_norm)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        state = self.objective.state_dict()
        if state and self.args.should_save:
            torch.save(state, Path(output_dir) / _FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.objective.state_dict():
            self._load_objective(Path(checkpoint) / _FILE)
        super()._load_optimizer_and_scheduler(checkpoint)

    def _load_objective(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(
                "resume_from_checkpoint",
                expected=f"{_FILE}, with the parameters of the objective",
                found="a checkpoint without it",
                next_step="Resume with the objective that the training began with.",
            )
        state = torch.load(path, map_location=self.args.device, weights_only=True)
        self.objective.load_state_dict(state)
