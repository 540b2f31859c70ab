"""Logits to soft targets. Pure torch, on whatever device the logits are.

Shapes: N positions of any windows, V vocabulary, K kept entries, G temperatures, D draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from softtargets.capture.draws import draw
from softtargets.capture.selected import Selected
from softtargets.capture.selection import Pins, Selection, TopP
from softtargets.capture.top import top
from softtargets.errors import InputError


def select(
    logits_NV: torch.Tensor,
    labels_N: torch.Tensor,
    selection: Selection,
    temperatures: tuple[float, ...],
    *,
    uniforms_ND: torch.Tensor | None = None,
    label_logits: bool = True,
    scratch_NV: torch.Tensor | None = None,
) -> Selected:
    """Select the targets of N positions.

    The tail's mass is summed by itself and not as one minus the head's, so that it is right to
    float32 precision however small it is: tail = S_tail / (S_head + S_tail), S = sum exp(z/T).

    Equal logits are ordered by id, so that the result does not depend on the device's sort.
    Logits that are no numbers, or nothing but -inf, make every weight of their position NaN, and
    with it its tail masses: `Selected.check` finds them.

    Args:
        logits_NV: float32; overwritten.
        labels_N: the ids that follow, int64.
        selection: what to keep.
        temperatures: at which the softmax over the vocabulary is to be known.
        uniforms_ND: numbers in [0, 1), float64, for as many draws as the selection has.
        label_logits: whether the label's logit and rank are wanted.
        scratch_NV: float32 memory to compute in when ids are drawn; new memory if there is none.
    """
    labels_N1 = labels_N[:, None]
    head = _head(logits_NV, labels_N1, selection)
    if selection.draws is not None and scratch_NV is None:
        scratch_NV = torch.empty_like(logits_NV)
    label_logit_N, label_rank_N = None, None
    if label_logits:
        label_logit_N1 = logits_NV.gather(1, labels_N1)
        label_rank_N = _rank(logits_NV, head.top_logits_NK, label_logit_N1, scratch_NV)
        label_logit_N = label_logit_N1[:, 0]
    if not selection.k:
        # Which of several equal ones is found makes no difference: their weights are equal too.
        top_logit_N1, top_N1 = logits_NV.max(dim=1, keepdim=True)
    tail_mass: dict[float, torch.Tensor] = {}
    logsumexp: dict[float, torch.Tensor] = {}
    drawn_ids_ND, drawn_logits_ND = None, None
    for temperature, weights_NV, head_NK in _weights(logits_NV, head, temperatures, scratch_NV):
        sum_N = weights_NV.sum(dim=1)
        total_N = sum_N + head_NK.sum(dim=1)
        tail_mass[temperature] = sum_N / total_N
        if not selection.k:
            share_N1 = weights_NV.gather(1, top_N1) / sum_N[:, None]
            logsumexp[temperature] = (top_logit_N1 / temperature - share_N1.log())[:, 0]
        if selection.draws is not None and selection.draws.temperature == temperature:
            assert uniforms_ND is not None
            drawn_ids_ND = draw(weights_NV, uniforms_ND)
            drawn_logits_ND = logits_NV.gather(1, drawn_ids_ND)
            # A tail that nothing can be drawn from, as its weights are too small, has no mass. One
            # that is NaN stays so: whatever is "drawn" from it may be an entry of the head.
            is_empty_N = weights_NV.gather(1, drawn_ids_ND[:, :1])[:, 0] == 0
            tail_mass[temperature].masked_fill_(is_empty_N & (total_N > 0), 0)
    ids_NK, logits_NK = head.sorted()
    return Selected(
        ids_NK=ids_NK.int(),
        logits_NK=logits_NK,
        num_entries_N=(logits_NK > -torch.inf).sum(dim=1, dtype=torch.int32),
        tail_mass_NG=torch.stack([tail_mass[one] for one in temperatures], dim=1),
        logsumexp_NG=torch.stack([logsumexp[one] for one in temperatures], dim=1)
        if logsumexp
        else None,
        label_logit_N=label_logit_N,
        label_rank_N=label_rank_N,
        drawn_ids_ND=None if drawn_ids_ND is None else drawn_ids_ND.int(),
        drawn_logits_ND=drawn_logits_ND,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """Entries to keep; those with a logit of -inf are none."""

    top_logits_NK: torch.Tensor
    """The k highest logits, falling, by which the label's rank is found."""
    ids_NK: torch.Tensor
    logits_NK: torch.Tensor
    is_ragged: bool
    """Whether entries with a finite logit of their own may be none here."""

    def take(self, weights_NV: torch.Tensor) -> torch.Tensor:
        """Return the entries' weights [N, K], and set them to zero where they were."""
        if not self.ids_NK.shape[1]:
            return weights_NV[:, :0]
        if not self.is_ragged:
            taken_NK = weights_NV.gather(1, self.ids_NK)
            weights_NV.scatter_(1, self.ids_NK, 0.0)
            return taken_NK
        # What is not kept stays where it is; the first entry always is kept, and stands in for it.
        is_kept_NK = self.logits_NK > -torch.inf
        ids_NK = torch.where(is_kept_NK, self.ids_NK, self.ids_NK[:, :1])
        taken_NK = weights_NV.gather(1, ids_NK).masked_fill_(~is_kept_NK, 0)
        weights_NV.scatter_(1, ids_NK, 0.0)
        return taken_NK

    def sorted(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and logits by falling logit; equal logits by rising id."""
        if not self.is_ragged:
            return self.ids_NK, self.logits_NK
        ids_NK, by_id = self.ids_NK.sort(dim=1)
        logits_NK, by_logit = self.logits_NK.gather(1, by_id).sort(
            dim=1, descending=True, stable=True
        )
        return ids_NK.gather(1, by_logit), logits_NK


def _head(logits_NV: torch.Tensor, labels_N1: torch.Tensor, selection: Selection) -> _Head:
    """Return the entries that a selection keeps exactly."""
    top_logits_NK, top_ids_NK = top(logits_NV, selection.k)
    ids_NK, kept_logits_NK = top_ids_NK, top_logits_NK
    if isinstance(selection, TopP):
        scaled_NK = top_logits_NK / selection.temperature
        lse_N1 = (logits_NV / selection.temperature).logsumexp(dim=1, keepdim=True)
        # An entry is needed when those before it do not reach the mass.
        before_NK = (scaled_NK - lse_N1).exp().cumsum(dim=1).roll(1, dims=1)
        is_needed_NK = before_NK < selection.p
        is_needed_NK[:, : selection.k_min] = True
        kept_logits_NK = top_logits_NK.masked_fill(~is_needed_NK, -torch.inf)
    if selection.pins.num_entries:
        ids_NK, kept_logits_NK = _pin(logits_NV, labels_N1, selection.pins, ids_NK, kept_logits_NK)
    return _Head(
        top_logits_NK=top_logits_NK,
        ids_NK=ids_NK,
        logits_NK=kept_logits_NK,
        is_ragged=isinstance(selection, TopP) or selection.pins.num_entries > 0,
    )


def _pin(
    logits_NV: torch.Tensor,
    labels_N1: torch.Tensor,
    pins: Pins,
    ids_NK: torch.Tensor,
    logits_NK: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and logits with the pinned entries that are not among them."""
    pinned_P = torch.tensor(pins.ids, dtype=torch.int64, device=logits_NV.device)
    pinned_NP = pinned_P.expand(len(logits_NV), -1)
    columns = [*pinned_NP.unbind(dim=1), *([labels_N1[:, 0]] if pins.label else [])]
    for column_N in columns:
        column_N1 = column_N[:, None]
        is_there_N1 = ((ids_NK == column_N1) & (logits_NK > -torch.inf)).any(dim=1, keepdim=True)
        own_N1 = logits_NV.gather(1, column_N1).masked_fill(is_there_N1, -torch.inf)
        ids_NK = torch.cat([ids_NK, column_N1], dim=1)
        logits_NK = torch.cat([logits_NK, own_N1], dim=1)
    return ids_NK, logits_NK


def _rank(
    logits_NV: torch.Tensor,
    top_logits_NK: torch.Tensor,
    label_logit_N1: torch.Tensor,
    scratch_NV: torch.Tensor | None,
) -> torch.Tensor:
    """Return how many logits are above the label's; only a label outside the top needs them all.

    They are counted in float32, in place: exact up to 2^24, and on a CPU four times as fast as
    making and counting booleans.
    """
    rank_N = (top_logits_NK > label_logit_N1).sum(dim=1, dtype=torch.int32)
    outside = (rank_N == top_logits_NK.shape[1]).nonzero()[:, 0]
    own_OV = None if scratch_NV is None else scratch_NV[: len(outside)]
    own_OV = torch.index_select(logits_NV, 0, outside, out=own_OV)
    rank_N[outside] = own_OV.gt_(label_logit_N1[outside]).sum(dim=1).int()
    return rank_N


def _weights(
    logits_NV: torch.Tensor,
    head: _Head,
    temperatures: tuple[float, ...],
    scratch_NV: torch.Tensor | None,
) -> Iterator[tuple[float, torch.Tensor, torch.Tensor]]:
    """Yield every temperature, what is in proportion to its softmax outside the head, and in it.

    The former, [N, V] with zeros for the head [N, K], is overwritten by the next. Probabilities at
    T / 2 are the squares of those at T, but for a factor that all share, so one softmax serves both
    temperatures. Without scratch memory the last takes the place of the logits.
    """
    pending = sorted(temperatures)
    while pending:
        temperature = pending.pop()
        is_last = not [one for one in pending if one != temperature / 2]
        out_NV = logits_NV if is_last else torch.empty_like(logits_NV)
        out_NV = out_NV if scratch_NV is None else scratch_NV
        scaled_NV = logits_NV
        if temperature != 1:
            scaled_NV = torch.div(logits_NV, temperature, out=out_NV)
        weights_NV = torch.softmax(scaled_NV, dim=1, out=out_NV)
        head_NK = head.take(weights_NV)
        yield temperature, weights_NV, head_NK
        if temperature / 2 in pending:
            pending.remove(temperature / 2)
            yield temperature / 2, weights_NV.square_(), head_NK.square_()


def check_temperatures(temperatures: tuple[float, ...]) -> tuple[float, ...]:
    """Return the grid in rising order, without doubles.

    Raises:
        InputError: it is empty, or one of them is not a positive finite number.
    """
    if not temperatures or not all(0 < one < np.inf for one in temperatures):
        raise InputError(
            "--temperature",
            expected="one or more positive numbers",
            found=", ".join(f"{one:g}" for one in temperatures) or "none",
            next_step="1 and 2 serve most students.",
        )
    return tuple(sorted({float(one) for one in temperatures}))
