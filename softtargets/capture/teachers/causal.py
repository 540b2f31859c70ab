"""Causal language models of transformers, whose body is their decoder."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from softtargets.capture.teachers.taken_apart import TakenApartTeacher
from softtargets.errors import TeacherError

_LEAK = 0.1
"""Most that a changed token may move the logits before it, as a share of how it moves its own.

Of causal models 0 was seen, as rounding alone can move them; of bidirectional ones a third and up.
"""


class TransformersTeacher(TakenApartTeacher):
    """A causal language model of transformers.

    Raises:
        TeacherError: there is no such model, or it cannot be loaded.
    """

    auto_class = "AutoModelForCausalLM"
    kind = "a causal language model"
    body_name = "decoder"
    options: ClassVar[dict[str, Any]] = {"use_cache": False}

    @property
    def _body(self) -> torch.nn.Module:
        decoder: torch.nn.Module = self._model.get_decoder()
        return decoder

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states [B, L, D].

        Windows are padded on the right and no mask is passed: under causal attention a token sees
        nothing to its right, and this keeps the fastest attention kernels in use.
        """
        return self._last_hidden(input_ids=input_ids_BL)

    def _check_reading(self, input_ids_1L: torch.Tensor) -> None:
        """Check that a token moves no logits before it: windows are padded without a mask."""
        changed_1L = input_ids_1L.clone()
        changed_1L[:, -1] = 0
        logits_LV = self.logits(self.hidden_states(input_ids_1L)[0])
        moved_L = (self.logits(self.hidden_states(changed_1L)[0]) - logits_LV).abs().mean(dim=1)
        if (moved_L[:-1] > _LEAK * moved_L[-1]).any():
            raise TeacherError(
                self.name,
                expected="a causal model, in which no token sees what follows it",
                found=f"one that reads in both directions ({type(self._model).__name__})",
                next_step="Pass a causal language model.",
            )
