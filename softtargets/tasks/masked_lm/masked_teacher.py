"""Masked language models of transformers, whose body reads in both directions."""

from __future__ import annotations

import torch

from softtargets.capture.teachers.model_files import TeacherConfig, loading
from softtargets.capture.teachers.positions import count_positions
from softtargets.capture.teachers.taken_apart import TakenApartTeacher
from softtargets.errors import TeacherError

_LEAK = 0.1
"""Most that padding may move the hidden states, as a share of how a changed token moves them.

Of models that mask it, rounding alone was seen.
"""


class MaskedTeacher(TakenApartTeacher):
    """A masked language model of transformers.

    Raises:
        TeacherError: there is no such model, or it cannot be loaded.
    """

    auto_class = "AutoModelForMaskedLM"
    kind = "a masked language model"
    body_name = "encoder"

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__(config)
        self.longest_sequence = self._count_positions()

    @property
    def _body(self) -> torch.nn.Module:
        encoder: torch.nn.Module = self._model.base_model
        return encoder

    def _count_positions(self) -> int | None:
        """Return how many tokens the model has positions for; None if it does not embed them."""
        from transformers import AutoModelForMaskedLM

        with loading(self.config.name, self.kind), torch.device("meta"):
            model = AutoModelForMaskedLM.from_config(
                self._model_config, trust_remote_code=self.config.trust_remote_code
            )
        return count_positions(model)

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states [B, L, D] of sequences without padding."""
        return self._last_hidden(
            input_ids=input_ids_BL, attention_mask=torch.ones_like(input_ids_BL)
        )

    def masked_hidden_states(
        self, input_ids_BL: torch.Tensor, num_tokens_B: torch.Tensor
    ) -> torch.Tensor:
        """Return the last hidden states [B, L, D], in which padding is seen by no token."""
        at_L = torch.arange(input_ids_BL.shape[1], device=input_ids_BL.device)
        is_token_BL = (at_L < num_tokens_B[:, None]).long()
        return self._last_hidden(input_ids=input_ids_BL, attention_mask=is_token_BL)

    @torch.inference_mode()
    def _check_reading(self, input_ids_1L: torch.Tensor) -> None:
        """Check that padding moves no hidden state."""
        input_ids_1L = input_ids_1L[:, : self.longest_sequence]
        num_tokens = max(1, input_ids_1L.shape[1] // 2)
        own_1LD = self.hidden_states(input_ids_1L[:, :num_tokens])
        changed_1L = input_ids_1L.clone()[:, :num_tokens]
        changed_1L[:, -1] = input_ids_1L[0, -1]
        changed_1LD = self.hidden_states(changed_1L)
        lengths_1 = torch.tensor([num_tokens], device=self.device)
        padded_1LD = self.masked_hidden_states(input_ids_1L, lengths_1)[:, :num_tokens]
        moved = (padded_1LD - own_1LD).abs().mean()
        if moved > _LEAK * (changed_1LD - own_1LD).abs().mean():
            raise TeacherError(
                self.name,
                expected="a masked language model in which no token sees padding",
                found=f"one in which tokens do ({type(self._model).__name__})",
                next_step="This architecture is not supported yet; please report it.",
            )
