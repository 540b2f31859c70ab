"""Classification on the student's side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar

import torch

from softtargets.errors import InputError
from softtargets.stream.batch import Batch
from softtargets.targets import ClassProblem, TargetSchema
from softtargets.train.distillation_objective import DistillationObjective
from softtargets.train.figures import Total, class_figures
from softtargets.train.objective import Objective
from softtargets.train.recipe import LABELS, MINILM, TINYBERT_TASK, Recipe
from softtargets.train.student_checks import check_unshared_rows, check_weights, first_answer
from softtargets.train.student_task import StudentTask

_KIND = "a model that classifies, or an encoder"
_PROBLEMS: dict[ClassProblem | None, str] = {
    None: "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
"""What transformers calls them."""


@dataclass(frozen=True, slots=True)
class ClassStudent(StudentTask):
    """A student that reads texts and returns logits of classes, of each text or of each token."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "soft-targets": Recipe(),
        "tinybert-task": TINYBERT_TASK,
        "minilm": MINILM,
        "labels": LABELS,
    }

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return tokens, the mask of those that are no padding, and token types if there are any.

        Raises:
            InputError: documents share rows, which a model that reads in both directions would mix.
        """
        check_unshared_rows(batch)
        names = ("input_ids", "attention_mask", "token_type_ids")
        return {name: batch[name] for name in names if name in batch}

    def objective(self) -> Objective:
        """Return the distillation of class logits, which `distillation_loss` knows."""
        return DistillationObjective()

    def auto_class(self, targets: TargetSchema) -> str:
        """Return the class of models that classify what the targets are about."""
        what = "Sequence" if targets.convention.is_of_windows else "Token"
        return f"AutoModelFor{what}Classification"

    def config_fields(self, targets: TargetSchema) -> dict[str, Any]:
        """Return the classes, what their logits are, and what batches are padded with."""
        fields: dict[str, Any] = {"num_labels": targets.num_classes}
        if targets.class_names:
            fields["id2label"] = dict(enumerate(targets.class_names))
            fields["label2id"] = {name: at for at, name in enumerate(targets.class_names)}
        if targets.convention.is_of_windows:
            fields["problem_type"] = _PROBLEMS[targets.problem]
        return fields | {"pad_token_id": targets.pad_token_id}

    def check_student(
        self, student: torch.nn.Module, missing: Sequence[str], targets: TargetSchema
    ) -> None:
        """Check that a student has as many classes, an encoder, and token types if texts have them.

        Its output layers may start at random, as those of an encoder that has learned no classes
        do.

        Raises:
            InputError: it has not.
        """
        check_weights([one for one in missing if not _is_of_head(one, student)], _KIND)
        _check_token_types(student, targets)
        num_classes = first_answer(student).shape[-1]
        if num_classes != targets.num_classes:
            raise InputError(
                "--student",
                expected=f"the teacher's {targets.num_classes} classes",
                found=f"{num_classes}",
                next_step="Pass a student with these classes, an encoder without any, or a "
                "config.json for one from scratch.",
            )

    def figures(self, logits: torch.Tensor, batch: Batch, temperature: float) -> dict[str, Total]:
        """Return KL, cross-entropy, agreement and accuracy of classes; of scores, their errors."""
        return class_figures(logits, batch, temperature)


def _is_of_head(name: str, student: torch.nn.Module) -> bool:
    """Return whether a weight is between the last hidden states and the classes."""
    encoder = str(getattr(student, "base_model_prefix", ""))
    return not name.startswith(f"{encoder}.") or name.startswith(f"{encoder}.pooler.")


def _check_token_types(student: torch.nn.Module, targets: TargetSchema) -> None:
    """Check that a student tells the two texts of a pair apart, as its teacher did.

    Raises:
        InputError: the store has token types, which the student does not read.
    """
    # Models take arguments that they do not know, and ignore them.
    reads_types = "token_type_ids" in signature(student.forward).parameters
    num_types = getattr(getattr(student, "config", None), "type_vocab_size", 2)
    if targets.token_types and not (reads_types and num_types > 1):
        raise InputError(
            "--student",
            expected="a model that reads token types, which tell the two texts of a pair apart",
            found=f"{type(student).__name__}, which does not",
            next_step="Pass a student that has them, as BERT does, or build the store with a "
            "teacher that has none.",
        )
