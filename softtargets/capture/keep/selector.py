"""Logits to soft targets, on whatever device the logits are.

Shapes: N positions of any windows, V vocabulary, K kept entries, G temperatures, D draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from softtargets.capture.keep.kept_entries import KeptEntries
from softtargets.capture.keep.sampling import draw, spread
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Draws, Selection, Threshold
from softtargets.capture.keep.softmaxes import Served, softmaxes_of
from softtargets.capture.keep.threshold_selector import select_by_threshold


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

    Equal logits are ordered by id, so that the result does not depend on the device's sort.
    Logits that are no numbers, or nothing but -inf, make every weight of their position NaN, and
    with it its tail masses: `Selected.check` finds them.

    Args:
        logits_NV: float32; overwritten. A threshold selection takes any number format, and leaves
            them as they are.
        labels_N: the ids that follow, int64.
        selection: what to keep.
        temperatures: at which the softmax over the vocabulary is to be known.
        uniforms_ND: numbers in [0, 1), float64: as many as the selection has draws if these are
            independent, else one.
        label_logits: whether the label's logit and rank are wanted.
        scratch_NV: float32 memory to compute in when ids are drawn; new memory if there is none.
    """
    labels_N1 = labels_N[:, None]
    if selection.draws is not None and scratch_NV is None:
        scratch_NV = torch.empty_like(logits_NV, dtype=torch.float32)
    if isinstance(selection, Threshold):
        assert uniforms_ND is not None
        assert scratch_NV is not None
        return select_by_threshold(
            logits_NV,
            labels_N1 if label_logits else None,
            selection.draws,
            temperatures,
            uniforms_ND,
            scratch_NV,
        )
    entries = KeptEntries.of(logits_NV, labels_N1, selection)
    # Without scratch memory what follows overwrites the logits; with it, it needs the memory.
    label = {}
    if label_logits and scratch_NV is None:
        label = _label(logits_NV, labels_N1, entries, None)
    softmaxes = _softmaxes(logits_NV, temperatures, scratch_NV)
    rest = _rest(logits_NV, entries, selection, temperatures, uniforms_ND, softmaxes)
    if label_logits and scratch_NV is not None:
        label = _label(logits_NV, labels_N1, entries, scratch_NV)
    ids_NK, logits_NK = entries.sorted()
    return Selected(
        ids_NK=ids_NK.int(),
        logits_NK=logits_NK,
        num_entries_N=(logits_NK > -torch.inf).sum(dim=1, dtype=torch.int32),
        **label,
        **rest,
    )


def _label(
    logits_NV: torch.Tensor,
    labels_N1: torch.Tensor,
    entries: KeptEntries,
    scratch_NV: torch.Tensor | None,
) -> dict[str, Any]:
    """Return the label's logit, and how many are above it; only one outside the top needs them all.

    They are counted in float32, in place: exact up to 2^24, and on a CPU four times as fast as
    making and counting booleans.
    """
    logit_N1 = logits_NV.gather(1, labels_N1)
    rank_N = (entries.top_logits_NK > logit_N1).sum(dim=1, dtype=torch.int32)
    outside = (rank_N == (entries.top_logits_NK > -torch.inf).sum(dim=1)).nonzero()[:, 0]
    own_OV = None if scratch_NV is None else scratch_NV[: len(outside)]
    own_OV = torch.index_select(logits_NV, 0, outside, out=own_OV)
    rank_N[outside] = own_OV.gt_(logit_N1[outside]).sum(dim=1).int()
    return {"label_logit_N": logit_N1[:, 0], "label_rank_N": rank_N}


def _softmaxes(
    logits_NV: torch.Tensor, temperatures: tuple[float, ...], scratch_NV: torch.Tensor | None
) -> Iterator[tuple[Served, torch.Tensor]]:
    """Yield the softmaxes [N, V] that the grid needs; each is overwritten by the next.

    Without scratch memory the last takes the place of the logits.
    """
    needed = softmaxes_of(temperatures)
    for served in needed:
        out_NV = scratch_NV
        if out_NV is None:
            out_NV = logits_NV if served is needed[-1] else torch.empty_like(logits_NV)
        scaled_NV = logits_NV
        if served.temperature != 1:
            scaled_NV = torch.div(logits_NV, served.temperature, out=out_NV)
        yield served, torch.softmax(scaled_NV, dim=1, out=out_NV)


def _rest(
    logits_NV: torch.Tensor,
    entries: KeptEntries,
    selection: Selection,
    temperatures: tuple[float, ...],
    uniforms_ND: torch.Tensor | None,
    softmaxes: Iterable[tuple[Served, torch.Tensor]],
) -> dict[str, Any]:
    """Return what is kept of all but the entries: tail masses, logsumexps without entries, draws.

    The tail's mass is summed by itself and not as one minus the entries', so that it is right to
    float32 precision however small it is: S_tail / (S_entries + S_tail), S = sum exp(z/T).
    """
    has_entries = entries.ids_NK.shape[1] > 0
    if not has_entries:
        # Which of several equal ones is found makes no difference: their weights are equal too.
        top_logit_N1, top_N1 = logits_NV.max(dim=1, keepdim=True)
    tail_mass: dict[float, torch.Tensor] = {}
    logsumexp: dict[float, torch.Tensor] = {}
    drawn: dict[str, torch.Tensor] = {}
    for temperature, weights_NV, own_NK in _weights(entries, softmaxes):
        sum_N = weights_NV.sum(dim=1)
        total_N = sum_N + own_NK.sum(dim=1)
        tail_mass[temperature] = sum_N / total_N
        if not has_entries:
            share_N1 = weights_NV.gather(1, top_N1) / sum_N[:, None]
            logsumexp[temperature] = (top_logit_N1 / temperature - share_N1.log())[:, 0]
        if selection.draws is not None and selection.draws.temperature == temperature:
            assert uniforms_ND is not None
            drawn = _draw(logits_NV, weights_NV, selection.draws, uniforms_ND)
            # A tail that nothing can be drawn from, as its weights are too small, has no mass. One
            # that is NaN stays so: whatever is "drawn" from it may be an entry.
            is_empty_N = weights_NV.gather(1, drawn["drawn_ids_ND"][:, :1].long())[:, 0] == 0
            tail_mass[temperature].masked_fill_(is_empty_N & (total_N > 0), 0)
    sums = {"tail_mass_NG": tail_mass, "logsumexp_NG": logsumexp}
    return drawn | {
        name: torch.stack([own[temperature] for temperature in temperatures], dim=1)
        for name, own in sums.items()
        if own
    }


def _weights(
    entries: KeptEntries, softmaxes: Iterable[tuple[Served, torch.Tensor]]
) -> Iterator[tuple[float, torch.Tensor, torch.Tensor]]:
    """Yield every temperature, what is in proportion to its softmax outside the entries, and there.

    The former, [N, V] with zeros for the entries [N, K], is overwritten by the next.
    """
    for (temperature, serves_half), weights_NV in softmaxes:
        own_NK = entries.take(weights_NV)
        yield temperature, weights_NV, own_NK
        if serves_half:
            yield temperature / 2, weights_NV.square_(), own_NK.square_()


def _draw(
    logits_NV: torch.Tensor, weights_NV: torch.Tensor, draws: Draws, uniforms_ND: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return draws that may be of the same id."""
    if draws.design == "systematic":
        uniforms_ND = spread(uniforms_ND, draws.num)
    ids_ND = draw(weights_NV, uniforms_ND)
    return {"drawn_ids_ND": ids_ND.int(), "drawn_logits_ND": logits_NV.gather(1, ids_ND)}
