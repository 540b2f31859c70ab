"""Causal language models on the student's side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from softtargets.stream.batch import Batch
from softtargets.train.distillation_objective import DistillationObjective
from softtargets.train.objective import Objective
from softtargets.train.student_task import StudentTask


@dataclass(frozen=True, slots=True)
class CausalStudent(StudentTask):
    """A student that reads tokens and returns logits of the vocabulary at each."""

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return tokens, and where the document of each begins if documents share windows.

        Then they are told apart by their positions, which transformers reads so if it is given no
        mask and no cache. A mask is not needed: padding is on the right.
        """
        if batch["num_segments"] == 1:
            return {name: batch[name] for name in ("input_ids", "attention_mask")}
        positions = batch["position_ids"].long()
        return {"input_ids": batch["input_ids"], "position_ids": positions, "use_cache": False}

    def objective(self) -> Objective:
        """Return the distillation of logits, fused with the output head where that saves memory."""
        return DistillationObjective()
