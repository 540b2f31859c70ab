"""Windows to batches: compact tensors, and soft targets made from them on any device."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from softtargets.errors import InputError
from softtargets.packing import ESCAPE, PackedTargets, split_halves
from softtargets.targets import temperature_index
from softtargets.window import Window

IGNORE_INDEX = -100
"""The label of a token that no loss counts, as in torch and transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTargets:
    """The teacher's distributions at one temperature.

    Position t of a row is the distribution of its token t + 1. At every position the entries and
    the tail sum to one; where there is no target, all mass is in the tail.
    """

    ids: torch.Tensor
    """[B, L, K] int64: kept vocabulary ids, by falling probability."""
    logprobs: torch.Tensor
    """[B, L, K] float32: their log-probabilities in nats; -inf for an entry that is not kept."""
    tail_logmass: torch.Tensor
    """[B, L] float32: log of the probability of all other ids together."""
    mask: torch.Tensor
    """[B, L] bool: where there is a target to train on."""


class Batch(UserDict[str, Any]):
    """A mapping of tensors, padded on the right to the longest window.

    For the student: `input_ids`, `attention_mask` and `labels` [B, L] int64. `labels` are the
    input ids where a target is trained on and -100 elsewhere, not shifted, as transformers wants
    them. `window_id` is a list of B strings. The rest are the packed targets: read them with
    `soft_targets`.
    """

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the batch on a device; the compact form is what travels."""
        return Batch(
            {
                name: value.to(device, non_blocking=non_blocking)
                if isinstance(value, torch.Tensor)
                else value
                for name, value in self.items()
            }
        )

    def soft_targets(self, temperature: float = 1.0) -> BatchTargets:
        """Return the targets at one of the stored temperatures, on the batch's device.

        log p_i = z_i / T - logsumexp_K(z / T) + log(1 - tail), see `SoftTargets.logprobs_TK`.

        Raises:
            TemperatureError: the temperature is not in the store's grid.
        """
        index = temperature_index(self["temperatures"], temperature)
        planes = [self[name] for name in _plane_names(self)]
        ids = sum(plane.long() << (8 * number) for number, plane in enumerate(planes))
        assert isinstance(ids, torch.Tensor)
        scaled = self._logits() / temperature
        tail = self["tail_mass"][..., index]
        head = scaled - scaled.logsumexp(dim=-1, keepdim=True) + torch.log1p(-tail)[..., None]
        ranks = torch.arange(ids.shape[-1], device=ids.device)
        is_kept = ranks < self["num_entries"][..., None]
        return BatchTargets(
            ids=ids,
            logprobs=head.masked_fill(~is_kept, -torch.inf),
            tail_logmass=tail.log(),
            mask=self["target_mask"],
        )

    def _logits(self) -> torch.Tensor:
        if "logits" in self:
            lossless: torch.Tensor = self["logits"]
            return lossless
        halves = self["steps"]
        steps = torch.cat([halves & 15, halves >> 4], dim=-1).int()
        steps = steps[..., : self["id_plane_0"].shape[-1]].contiguous()
        steps.view(-1)[self["escape_index"]] = self["escape_value"]
        distance = steps.cumsum(dim=-1) * self["step"]
        logits: torch.Tensor = self["top_logit"][..., None] - distance
        return logits


def collate(windows: Sequence[Window]) -> Batch:
    """Return windows as one batch; the `collate_fn` for a DataLoader.

    Raises:
        InputError: there are no windows, or they come from stores of different schemas.
    """
    _check_alike(windows)
    length = max(len(window) for window in windows)
    packed = [window.packed for window in windows]
    first = packed[0]
    targets: dict[str, npt.NDArray[Any]] = {
        "num_entries": _pad([one.num_entries_T for one in packed], length),
        "top_logit": _pad([one.top_logit_T for one in packed], length),
        "tail_mass": _pad([one.tail_mass_TG for one in packed], length, fill=1),
        "label_logit": _pad([one.label_logit_T for one in packed], length),
        "label_rank": _pad([one.label_rank_T for one in packed], length),
        "target_mask": _pad([window.mask_T for window in windows], length),
    }
    for plane in range(len(first.id_planes)):
        targets[f"id_plane_{plane}"] = _pad([one.id_planes[plane] for one in packed], length)
    if first.steps_TH is not None:
        steps_BLH = _pad([one.steps_TH for one in packed if one.steps_TH is not None], length)
        targets |= {"steps": steps_BLH, **_place_escapes(packed, length)}
    else:
        logits = [one.logits_TK for one in packed if one.logits_TK is not None]
        targets["logits"] = _pad(logits, length)
    input_ids_BL = _pad([window.input_ids_L for window in windows], length).astype(np.int64)
    attention_mask_BL = np.arange(length) < np.array([len(one) for one in windows])[:, None]
    labels_BL = np.full_like(input_ids_BL, IGNORE_INDEX)
    is_label_BT = targets["target_mask"][:, :-1]
    labels_BL[:, 1:][is_label_BT] = input_ids_BL[:, 1:][is_label_BT]
    inputs = {
        "input_ids": input_ids_BL,
        "attention_mask": attention_mask_BL.astype(np.int64),
        "labels": labels_BL,
    }
    return Batch(
        {name: torch.from_numpy(array) for name, array in (inputs | targets).items()}
        | {
            "window_id": [window.window_id for window in windows],
            "temperatures": first.temperatures,
            "step": first.step,
            "vocab_size": first.vocab_size,
        }
    )


def _pad(arrays: Sequence[npt.NDArray[Any]], length: int, fill: float = 0) -> npt.NDArray[Any]:
    """Return arrays [T or L, ...] as one [B, length, ...], filled on the right."""
    shape = (len(arrays), length, *arrays[0].shape[1:])
    padded = np.full(shape, fill, arrays[0].dtype) if fill else np.zeros(shape, arrays[0].dtype)
    for row, array in enumerate(arrays):
        padded[row, : len(array)] = array
    return padded


def _place_escapes(packed: Sequence[PackedTargets], length: int) -> dict[str, npt.NDArray[Any]]:
    """Return the escapes of all windows, and where they stand in the flattened [B, L, K]."""
    places = []
    for row, one in enumerate(packed):
        assert one.steps_TH is not None
        num_entries = one.id_planes[0].shape[1]
        within = np.flatnonzero(split_halves(one.steps_TH, num_entries) == ESCAPE)
        places.append(within + row * length * num_entries)
    return {
        "escape_index": np.concatenate(places),
        "escape_value": np.concatenate([one.escapes_E for one in packed]),
    }


def _plane_names(batch: Batch) -> list[str]:
    return sorted(name for name in batch if name.startswith("id_plane_"))


def _check_alike(windows: Sequence[Window]) -> None:
    kinds = {
        (
            window.packed.temperatures,
            window.packed.step,
            window.packed.vocab_size,
            window.packed.id_planes[0].shape[1],
            window.packed.steps_TH is None,
        )
        for window in windows
    }
    if len(kinds) != 1:
        raise InputError(
            "collate",
            expected="one or more windows of the same schema",
            found=f"{len(windows)} windows of {len(kinds)} schemas",
            next_step="Collate windows of one store.",
        )
