"""Causal language models on the student's side."""

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
from softtargets.train.recipe import LABELS, MINILM, TINYBERT_GENERAL, Recipe
from softtargets.train.student_checks import check_vocabulary, check_weights
from softtargets.train.student_task import StudentTask

_CHECKED_TOKENS = 8
_LEAK = 1e-4
"""Most that a changed token may move the logits before it, as a share of how it moves its own.

Rounding in float32 moves them by some 1e-6. A model that reads in both directions moves them by
more than this even if its weights are random."""


@dataclass(frozen=True, slots=True)
class CausalStudent(StudentTask):
    """A student that reads tokens and returns logits of the vocabulary at each."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "soft-targets": Recipe(),
        "tinybert-general": TINYBERT_GENERAL,
        "minilm": MINILM,
        "labels": LABELS,
    }

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

    def auto_class(self, targets: TargetSchema) -> str:
        """Return the class of causal language models."""
        del targets
        return "AutoModelForCausalLM"

    def check_student(
        self, student: torch.nn.Module, missing: Sequence[str], targets: TargetSchema
    ) -> None:
        """Check that a student has an output for each of the teacher's, and reads from the left.

        Raises:
            InputError: it has not, or does not.
        """
        check_weights(missing, "a causal language model")
        first_LV, other_LV = _answers(student, targets.vocab_size)
        check_vocabulary(first_LV.shape[1], targets)
        moved_L = (first_LV - other_LV).abs().mean(dim=1)
        if (moved_L[:-1] > _LEAK * moved_L[-1]).any():
            raise InputError(
                "--student",
                expected="a causal model, in which no token sees what follows it",
                found=f"one that reads in both directions ({type(student).__name__})",
                next_step="The store is of a causal language model: pass such a student.",
            )

    def figures(self, logits: torch.Tensor, batch: Batch, temperature: float) -> dict[str, Total]:
        """Return KL, cross-entropy, agreement and accuracy of the next token."""
        return vocabulary_figures(logits, batch, temperature)


@torch.no_grad()
def _answers(student: torch.nn.Module, vocab_size: int) -> list[torch.Tensor]:
    """Return a student's logits [L, V] of some tokens, and of the same but for the last one."""
    device = next(student.parameters()).device
    read_1L = torch.arange(min(_CHECKED_TOKENS, vocab_size), device=device)[None]
    changed_1L = read_1L.clone()
    changed_1L[:, -1] = 0
    is_training = student.training
    student.eval()
    answers = [student(input_ids=one, use_cache=False).logits[0] for one in (read_1L, changed_1L)]
    student.train(is_training)
    return answers
