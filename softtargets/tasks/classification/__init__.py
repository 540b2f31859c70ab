"""Classification: the logits of every class, of a text, a pair of texts, or each of its tokens."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from softtargets.targets import TargetSchema

if TYPE_CHECKING:
    from softtargets.tasks.classification.class_capture import ClassCapture
    from softtargets.tasks.classification.class_student import ClassStudent


class Classification:
    """The task of models that classify texts or tokens."""

    name = "classification"

    def fits(self, architecture: str) -> bool:
        """Return whether a class of transformers classifies, by its name."""
        return architecture.endswith(("ForSequenceClassification", "ForTokenClassification"))

    def owns(self, schema: TargetSchema) -> bool:
        """Return whether targets are class logits of windows or tokens."""
        return schema.num_classes > 0 and not schema.convention.labels_are_inputs

    def capture(self) -> ClassCapture:
        """Return how records become windows and targets."""
        side: ClassCapture = import_module(f"{__name__}.class_capture").ClassCapture()
        return side

    def student(self) -> ClassStudent:
        """Return what a student reads, and what it is trained for."""
        side: ClassStudent = import_module(f"{__name__}.class_student").ClassStudent()
        return side
