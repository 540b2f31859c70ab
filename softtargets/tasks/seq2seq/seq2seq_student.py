"""Encoder-decoders on the student's side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from softtargets.errors import InputError
from softtargets.stream.batch import Batch
from softtargets.targets import TargetSchema
from softtargets.train.distillation_objective import DistillationObjective
from softtargets.train.figures import Total, vocabulary_figures
from softtargets.train.objective import Objective
from softtargets.train.recipe import LABELS, Recipe
from softtargets.train.student_checks import check_vocabulary, check_weights, first_answer
from softtargets.train.student_task import StudentTask

_KIND = "an encoder-decoder of text"


@dataclass(frozen=True, slots=True)
class Seq2SeqStudent(StudentTask):
    """A student that reads sources and targets, and returns logits at each token of a target."""

    recipes: ClassVar[Mapping[str, Recipe]] = {"soft-targets": Recipe(), "labels": LABELS}

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return the sources, which of their tokens are no padding, and what the decoder reads.

        The decoder needs no mask: padding is on the right, and no token sees what follows it.
        """
        return {
            "input_ids": batch["encoder_input_ids"],
            "attention_mask": batch["encoder_attention_mask"],
            "decoder_input_ids": batch["input_ids"],
        }

    def objective(self) -> Objective:
        """Return the distillation of logits, fused with the output head where that saves memory."""
        return DistillationObjective()

    def auto_class(self, targets: TargetSchema) -> str:
        """Return the class of encoder-decoders."""
        del targets
        return "AutoModelForSeq2SeqLM"

    def check_student(
        self, student: torch.nn.Module, missing: Sequence[str], targets: TargetSchema
    ) -> None:
        """Check that a student is one, has all weights, and an output for each of the teacher's.

        Raises:
            InputError: it has not.
        """
        check_weights(missing, _KIND)
        config: Any = getattr(student, "config", None)
        if not getattr(config, "is_encoder_decoder", False):
            raise InputError(
                "--student",
                expected=_KIND,
                found=f"{type(student).__name__}",
                next_step="The store is of an encoder-decoder: pass such a student.",
            )
        check_vocabulary(first_answer(student, "decoder_input_ids").shape[-1], targets)

    def figures(self, logits: torch.Tensor, batch: Batch, temperature: float) -> dict[str, Total]:
        """Return KL, cross-entropy, agreement and accuracy of the target's tokens."""
        return vocabulary_figures(logits, batch, temperature)
