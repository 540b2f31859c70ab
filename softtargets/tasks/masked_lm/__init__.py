"""Masked language models: at each masked token, the distribution of what stood there."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from softtargets.targets import TOKEN, TargetSchema

if TYPE_CHECKING:
    from softtargets.capture.teachers.model_files import TeacherConfig
    from softtargets.tasks.masked_lm.augmentation import Augmenter
    from softtargets.tasks.masked_lm.masked_capture import MaskedCapture
    from softtargets.tasks.masked_lm.masked_student import MaskedStudent


class MaskedLM:
    """The task of masked language models."""

    name = "masked-lm"

    def fits(self, architecture: str) -> bool:
        """Return whether a class of transformers is a masked language model, by its name."""
        return architecture.endswith("ForMaskedLM")

    def owns(self, schema: TargetSchema) -> bool:
        """Return whether targets are tokens of a vocabulary, each at its own position."""
        is_of_tokens = schema.convention == TOKEN and schema.label_ids
        return is_of_tokens and not schema.num_classes and not schema.encoder_input

    def capture(self) -> MaskedCapture:
        """Return how records become windows and targets."""
        side: MaskedCapture = import_module(f"{__name__}.masked_capture").MaskedCapture()
        return side

    def student(self) -> MaskedStudent:
        """Return what a student reads, and what it is trained for."""
        side: MaskedStudent = import_module(f"{__name__}.masked_student").MaskedStudent()
        return side

    def augmenter(self, config: TeacherConfig, **options: Any) -> Augmenter:
        """Return what makes copies of texts by a model, see `Augmenter`."""
        module = import_module(f"{__name__}.augmentation")
        made: Augmenter = module.Augmenter.of(config, module.Augmentation(**options))
        return made
