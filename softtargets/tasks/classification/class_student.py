"""Classification on the student's side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from softtargets.errors import InputError
from softtargets.stream.batch import Batch
from softtargets.train.distillation_objective import DistillationObjective
from softtargets.train.objective import Objective
from softtargets.train.student_task import StudentTask


@dataclass(frozen=True, slots=True)
class ClassStudent(StudentTask):
    """A student that reads texts and returns logits of classes, of each text or of each token."""

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return tokens, the mask of those that are no padding, and token types if there are any.

        Raises:
            InputError: documents share rows, which a model that reads in both directions would mix.
        """
        if batch["num_segments"] > 1:
            raise InputError(
                "student_inputs",
                expected="one text in each row, as classification reads them",
                found=f"rows of up to {batch['num_segments']}",
                next_step="Feed batches as they are collated, without repack.",
            )
        names = ("input_ids", "attention_mask", "token_type_ids")
        return {name: batch[name] for name in names if name in batch}

    def objective(self) -> Objective:
        """Return the distillation of class logits, which `distillation_loss` knows."""
        return DistillationObjective()
