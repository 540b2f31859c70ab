"""How far a student's layer is from a teacher's: its hidden states, attention and relations.

Each loss is a mean over tokens, or over pairs of tokens that see each other in student and teacher.
Padding does not count, and neither do pairs that a mask rules out.

Shapes: B sequences, L their tokens, D width of the teacher, A heads, R relation heads, N tokens
without padding.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from softtargets.errors import InputError
from softtargets.layers.recorder import AttentionInputs

_LEAST = -1e9
"""Stands for the log of nothing, which nothing is multiplied with."""


def states_loss(
    own_BLD: torch.Tensor, teacher_BLD: torch.Tensor, is_token_BL: torch.Tensor
) -> torch.Tensor:
    """Return the mean squared difference of hidden states (Jiao et al. 2020, equations 8 and 9).

    Raises:
        InputError: they are of other widths.
    """
    if own_BLD.shape[-1] != teacher_BLD.shape[-1]:
        raise InputError(
            "hidden states",
            expected=f"a width of {teacher_BLD.shape[-1]}, as the teacher's have",
            found=f"{own_BLD.shape[-1]}",
            next_step="Give the objective the student by Objective.prepare, which makes a "
            "projection.",
        )
    own_ND, other_ND = own_BLD[is_token_BL].float(), teacher_BLD[is_token_BL].float()
    return functional.mse_loss(own_ND, other_ND)


def attention_loss(
    own: AttentionInputs, teacher: AttentionInputs, is_token_BL: torch.Tensor
) -> torch.Tensor:
    """Return the mean squared difference of attention scores before the softmax (equation 7).

    Raises:
        InputError: the student has another number of heads.
    """
    heads, expected = own.query_BALH.shape[1], teacher.query_BALH.shape[1]
    if heads != expected:
        raise InputError(
            "attention",
            expected=f"a student with the teacher's {expected} heads, to compare each with one",
            found=f"{heads}",
            next_step="Give the student as many heads, leave attention out with "
            "--attention-weight 0, or choose the recipe minilm, which has heads of its own.",
        )
    is_seen = own.is_seen(is_token_BL) & teacher.is_seen(is_token_BL)
    squares = (own.scores() - teacher.scores()).square()
    return squares.masked_fill(~is_seen, 0).sum() / (is_seen.sum() * heads).clamp(min=1)


def relation_loss(
    own: AttentionInputs, teacher: AttentionInputs, is_token_BL: torch.Tensor, num_heads: int
) -> torch.Tensor:
    """Return the KL of relations among queries, keys and values, summed over the three.

    A relation is softmax(x x^T / sqrt(w)) of one of them, cut into relation heads of width w: how
    one token's is like those of the others (Wang et al. 2021, MiniLMv2, section 3). It is a mean
    over tokens and relation heads.

    Args:
        own: the student's.
        teacher: the teacher's, of any width.
        is_token_BL: which tokens are no padding.
        num_heads: R, the relation heads.

    Raises:
        InputError: a width is no multiple of R.
    """
    is_seen = own.is_seen(is_token_BL) & teacher.is_seen(is_token_BL)
    total = torch.zeros((), device=is_seen.device)
    for name in ("query_BALH", "key_BKLH", "value_BKLH"):
        log_s, log_t = (
            _relations(getattr(one, name), num_heads, is_seen, name) for one in (own, teacher)
        )
        terms = (log_t.exp() * (log_t - log_s)).masked_fill(~is_seen, 0)
        total = total + terms.sum() / (is_token_BL.sum() * num_heads).clamp(min=1)
    return total


def _relations(
    vectors_BALH: torch.Tensor, num_heads: int, is_seen: torch.Tensor, name: str
) -> torch.Tensor:
    """Return log-probabilities [B, R, L, L] of how vectors are like each other."""
    vectors_BLD = vectors_BALH.transpose(1, 2).flatten(2).float()
    width = vectors_BLD.shape[2]
    if width % num_heads:
        raise InputError(
            "relation heads",
            expected=f"a number that divides {width}, the width of {name.split('_')[0]} vectors",
            found=f"{num_heads}",
            next_step="Pass --relation-heads with a number that divides the widths of both.",
        )
    heads_BRLW = vectors_BLD.unflatten(2, (num_heads, -1)).transpose(1, 2)
    scores = heads_BRLW @ heads_BRLW.transpose(2, 3) / heads_BRLW.shape[-1] ** 0.5
    seen: torch.Tensor = scores.masked_fill(~is_seen, _LEAST)
    return seen.log_softmax(dim=-1)
