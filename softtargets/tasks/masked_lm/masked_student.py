"""Masked language models on the student's side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from softtargets.stream.batch import Batch
from softtargets.targets import TargetSchema
from softtargets.train.distillation_objective import DistillationObjective
from softtargets.train.figures import Total, vocabulary_figures
from softtargets.train.objective import Objective
from softtargets.train.recipe import LABELS, MINILM, TINYBERT_GENERAL, Recipe
from softtargets.train.student_checks import (
    check_unshared_rows,
    check_vocabulary,
    check_weights,
    first_answer,
)
from softtargets.train.student_task import StudentTask

DISTILBERT = Recipe(temperature=2.0, ce_weight=2 / 7, logits_weight=7.0, cosine_weight=1.0)
"""5 times the soft targets, 2 times the labels, and the cosine (Sanh et al. 2019, section 3)."""


@dataclass(frozen=True, slots=True)
class MaskedStudent(StudentTask):
    """A student that reads masked tokens and returns logits of the vocabulary at each."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "soft-targets": Recipe(),
        "distilbert": DISTILBERT,
        "tinybert-general": TINYBERT_GENERAL,
        "minilm": MINILM,
        "labels": LABELS,
    }

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return the tokens, and which of them are none.

        Raises:
            InputError: documents share a row, in which they would see each other.
        """
        check_unshared_rows(batch)
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    def objective(self) -> Objective:
        """Return the distillation of logits, fused with the output head where that saves memory."""
        return DistillationObjective()

    def auto_class(self, targets: TargetSchema) -> str:
        """Return the class of masked language models."""
        del targets
        return "AutoModelForMaskedLM"

    def check_student(
        self, student: torch.nn.Module, missing: Sequence[str], targets: TargetSchema
    ) -> None:
        """Check that a student has all weights, and an output for each of the teacher's.

        Raises:
            InputError: it has not.
        """
        check_weights(missing, "a masked language model")
        check_vocabulary(first_answer(student).shape[-1], targets)

    def figures(self, logits: torch.Tensor, batch: Batch, temperature: float) -> dict[str, Total]:
        """Return KL, cross-entropy, agreement and accuracy of what stood under the masks."""
        return vocabulary_figures(logits, batch, temperature)
