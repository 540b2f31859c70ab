"""Causal language models: at each position, the distribution of the token that follows."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from softtargets.targets import NEXT_TOKEN, TargetSchema
from softtargets.task_registry import DEFAULT_TASK

if TYPE_CHECKING:
    from softtargets.tasks.causal_lm.causal_capture import CausalCapture
    from softtargets.tasks.causal_lm.causal_student import CausalStudent


class CausalLM:
    """The task of causal language models."""

    name = DEFAULT_TASK

    def fits(self, architecture: str) -> bool:
        """Return whether a class of transformers is a causal language model, by its name."""
        return architecture.endswith(("ForCausalLM", "LMHeadModel"))

    def owns(self, schema: TargetSchema) -> bool:
        """Return whether targets are of the next token, and of a decoder alone."""
        return schema.convention == NEXT_TOKEN and not schema.encoder_input

    def capture(self) -> CausalCapture:
        """Return how records become windows and targets."""
        side: CausalCapture = import_module(f"{__name__}.causal_capture").CausalCapture()
        return side

    def student(self) -> CausalStudent:
        """Return what a student reads, and what it is trained for."""
        side: CausalStudent = import_module(f"{__name__}.causal_student").CausalStudent()
        return side
