"""A weighted sum of three losses: soft targets, labels, and the cosine of last hidden states.

With the weights 5, 2 and 1 at temperature 2 it is DistilBERT's (Sanh et al. 2019, section 3).
"""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional

from softtargets.errors import InputError
from softtargets.stream.batch import Batch
from softtargets.train.choices import check_number, check_temperature
from softtargets.train.distillation_objective import DistillationObjective
from softtargets.train.divergences import Divergence, DivergenceName
from softtargets.train.full import OutputHead
from softtargets.train.losses import distillation_loss
from softtargets.train.objective import Fused, StudentOutputs
from softtargets.train.sparse import Tail

_WITHOUT = "leave the cosine out: cosine=0 in Python, --cosine-weight 0 of softtargets train"


class WeightedObjective(DistillationObjective):
    """soft * T^2 * KL(teacher, student) + labels * cross-entropy + cosine * (1 - cos).

    Args:
        soft: weight of the forward KL at temperature T, a mean over targets.
        labels: weight of the cross-entropy on labels at temperature 1, a mean over targets.
        cosine: weight of 1 less the cosine between the last hidden states of student and teacher, a
            mean over the tokens that the store has the teacher's of.
        temperature: T, of the store's grid unless `tail` allows others.
        divergence: instead of the forward KL, see `distillation_loss`.
        tail: what stands for the ids that are not kept, see `distillation_loss`.
        teacher_head: for tail "full", the store's.
        fused: see `DistillationObjective`.

    Raises:
        InputError, TemperatureError: a weight is negative, soft and labels are 0, or the
            temperature is none.
    """

    def __init__(
        self,
        soft: float = 5.0,
        labels: float = 2.0,
        cosine: float = 1.0,
        *,
        temperature: float = 2.0,
        divergence: Divergence | DivergenceName = "forward_kl",
        tail: Tail | None = None,
        teacher_head: OutputHead | None = None,
        fused: Fused = "auto",
    ) -> None:
        for name, weight in (("soft", soft), ("labels", labels), ("cosine", cosine)):
            check_number(name, weight, low=0, next_step="0 leaves this loss out.")
        check_temperature(temperature)
        self.of_logits, self.cosine = soft + labels, cosine
        next_step = "Pass soft or labels above 0, or an Objective of your own."
        check_number("soft + labels", self.of_logits, low=0, with_ends=False, next_step=next_step)
        super().__init__(
            partial(
                distillation_loss,
                temperature=temperature,
                ce_weight=labels / self.of_logits,
                divergence=divergence,
                tail=tail,
                teacher_head=teacher_head,
            ),
            fused,
        )
        if cosine:
            self.needs = self.needs | {"hidden_states"}

    def loss(
        self, outputs: StudentOutputs, batch: Batch, num_targets: float | torch.Tensor | None
    ) -> torch.Tensor:
        """Return the weighted sum of the three losses.

        Raises:
            InputError, TemperatureError: student, store and options do not fit each other.
        """
        total = self.of_logits * super().loss(outputs, batch, num_targets)
        if not self.cosine:
            return total
        # A mean over tokens, of which each batch of a step counts by its targets.
        share = 1.0 if num_targets is None else batch["target_mask"].sum() / num_targets
        return total + self.cosine * share * cosine_loss(outputs.hidden_states[-1], batch)


def cosine_loss(hidden_BLD: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return 1 less the cosine to the teacher's last hidden states, a mean; 0 without any.

    Args:
        hidden_BLD: the student's last hidden states [B, L, D].
        batch: of a store that has the teacher's, of the targets or of all tokens.

    Raises:
        InputError: the store has none, or they are of another width.
    """
    if "hidden_states" not in batch:
        raise InputError(
            "cosine",
            expected="a store with the teacher's last hidden states",
            found="one without",
            next_step=f"Build the store with --hidden-states, or {_WITHOUT}.",
        )
    teacher_BLD = batch.states()
    if hidden_BLD.shape[-1] != teacher_BLD.shape[-1]:
        raise InputError(
            "cosine",
            expected=f"a student whose hidden states are {teacher_BLD.shape[-1]} wide, as the "
            "teacher's are",
            found=f"{hidden_BLD.shape[-1]}",
            next_step=f"Make the student as wide as the teacher, or {_WITHOUT}.",
        )
    is_there_BL = batch.has_states()
    own_ND, other_ND = hidden_BLD[is_there_BL].float(), teacher_BLD[is_there_BL].float()
    cosine_N = functional.cosine_similarity(own_ND, other_ND, dim=1)
    return (1 - cosine_N).sum() / max(1, len(cosine_N))
