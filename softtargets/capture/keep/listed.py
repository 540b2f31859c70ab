"""Lists of log-probabilities, as servers give them, to soft targets.

Shapes: N positions of any windows, K entries of a list.
"""

from __future__ import annotations

import torch

from softtargets.capture.abilities import LISTS, check_abilities
from softtargets.capture.keep.kept_entries import by_falling_logit
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Keep

_ROUNDING = 1e-3
"""By how much probabilities in float32 or less may sum to more than 1."""


def select_listed(
    ids_NK: torch.Tensor,
    logprobs_NK: torch.Tensor,
    *,
    label_logprobs_N: torch.Tensor | None = None,
    label_ranks_N: torch.Tensor | None = None,
) -> Selected:
    """Select the targets of N positions from the likeliest ids of each, at temperature 1.

    Log-probabilities are logits whose logsumexp is 0, so the tail has what they leave of 1. A list
    that is empty or no distribution gets a tail mass of NaN, which `Selected.check` finds.

    Args:
        ids_NK: the likeliest ids, in any order.
        logprobs_NK: in nats; -inf past a position's count.
        label_logprobs_N: those of the ids that follow, if they are kept.
        label_ranks_N: how many ids are likelier than those, from 0.
    """
    ids_NK, logits_NK = by_falling_logit(ids_NK, logprobs_NK.float())
    kept_N = logprobs_NK.double().exp().sum(dim=1)
    is_sound_N = (kept_N > 0) & (kept_N < 1 + _ROUNDING)
    tail_N = (1 - kept_N).clamp(min=0).masked_fill(~is_sound_N, torch.nan)
    return Selected(
        ids_NK=ids_NK.int(),
        logits_NK=logits_NK,
        num_entries_N=(logits_NK > -torch.inf).sum(dim=1, dtype=torch.int32),
        tail_mass_NG=tail_N.float()[:, None],
        label_logit_N=None if label_logprobs_N is None else label_logprobs_N.float(),
        label_rank_N=None if label_ranks_N is None else label_ranks_N.int(),
    )


def check_listed(keep: Keep) -> None:
    """Check that lists of the likeliest ids are enough for what is to be kept.

    Raises:
        InputError: they are not; the message names the option.
    """
    check_abilities(keep, LISTS, "a teacher that lists its likeliest ids")
