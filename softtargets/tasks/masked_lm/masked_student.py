"""Masked language models on the student's side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from softtargets.errors import InputError
from softtargets.stream.batch import Batch
from softtargets.train.distillation_objective import DistillationObjective
from softtargets.train.objective import Objective
from softtargets.train.student_task import StudentTask


@dataclass(frozen=True, slots=True)
class MaskedStudent(StudentTask):
    """A student that reads masked tokens and returns logits of the vocabulary at each."""

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return the tokens, and which of them are none.

        Raises:
            InputError: documents share a row, in which they would see each other.
        """
        if batch["num_segments"] > 1:
            raise InputError(
                "student_inputs",
                expected="a window of one document in each row",
                found=f"rows of up to {batch['num_segments']}, which a student that reads in both "
                "directions would mix",
                next_step="Leave batches as they are collated: omit repack.",
            )
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    def objective(self) -> Objective:
        """Return the distillation of logits, fused with the output head where that saves memory."""
        return DistillationObjective()
