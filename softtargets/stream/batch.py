"""Windows to batches: compact tensors, and soft targets made from them on any device."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from softtargets.errors import InputError
from softtargets.kinds import TargetSchema
from softtargets.packing.head import ESCAPE, PackedHead, split_halves
from softtargets.targets import Int32, temperature_index
from softtargets.window import Window

IGNORE_INDEX = -100
"""The label of a token that no loss counts, as in torch and transformers."""

Given = TypeVar("Given")


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
    them. Where documents share a window the teacher read each by itself, from position 0:
    `segment_ids` [B, L] tells which tokens are of one document, `position_ids` where they stand in
    it, and a student is to see them in the same way. `window_id` is a list of B strings. The rest
    are the packed targets: read them with
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
        InputError: there are no windows, they come from stores of different schemas, or their
            targets are not those of the next token with a head.
    """
    schema = _common_schema(windows)
    length = max(len(window) for window in windows)
    packed = [window.packed for window in windows]
    heads = _given(one.head for one in packed)
    place_tokens = partial(_place, [slice(len(window)) for window in windows], length)
    place = partial(_place, [_target_places(window) for window in windows], length)
    targets: dict[str, npt.NDArray[Any]] = {
        "num_entries": place([head.num_entries_T for head in heads]),
        "top_logit": place(_given(one.top_logit_T for one in packed)),
        "tail_mass": place(_given(one.tail_mass_TG for one in packed), fill=1),
        "target_mask": place([window.mask_T for window in windows]),
    }
    if schema.label_logits:
        targets["label_logit"] = place(_given(one.label_logit_T for one in packed))
        targets["label_rank"] = place(_given(one.label_rank_T for one in packed))
    for plane in range(len(heads[0].id_planes)):
        targets[f"id_plane_{plane}"] = place([head.id_planes[plane] for head in heads])
    if heads[0].step is not None:
        steps_BLH = place(_given(head.steps_TH for head in heads))
        targets |= {"steps": steps_BLH, **_place_escapes(windows, heads, length)}
    else:
        targets["logits"] = place(_given(head.logits_TK for head in heads))
    input_ids_BL = place_tokens([window.input_ids_L for window in windows]).astype(np.int64)
    segments = [window.segment_lengths_S for window in windows]
    attention_mask_BL = np.arange(length) < np.array([len(one) for one in windows])[:, None]
    labels_BL = np.full_like(input_ids_BL, IGNORE_INDEX)
    is_label_BT = targets["target_mask"][:, :-1]
    labels_BL[:, 1:][is_label_BT] = input_ids_BL[:, 1:][is_label_BT]
    inputs = {
        "input_ids": input_ids_BL,
        "attention_mask": attention_mask_BL.astype(np.int64),
        "labels": labels_BL,
        "segment_ids": place_tokens([np.repeat(np.arange(len(one)), one) for one in segments]),
        "position_ids": place_tokens(
            [np.concatenate([np.arange(length) for length in one]) for one in segments]
        ),
    }
    return Batch(
        {name: torch.from_numpy(array) for name, array in (inputs | targets).items()}
        | {
            "window_id": [window.window_id for window in windows],
            "temperatures": schema.temperatures,
            "step": heads[0].step,
            "vocab_size": schema.vocab_size,
        }
    )


def _target_places(window: Window) -> slice | Int32:
    """Return where in its row the targets of a window stand."""
    return slice(len(window.mask_T)) if window.positions_T is None else window.positions_T


def _place(
    places: Sequence[slice | Int32],
    length: int,
    arrays: Sequence[npt.NDArray[Any]],
    fill: float = 0,
) -> npt.NDArray[Any]:
    """Return arrays [T or L, ...] as one [B, length, ...], filled where nothing is placed."""
    shape = (len(arrays), length, *arrays[0].shape[1:])
    padded = np.full(shape, fill, arrays[0].dtype) if fill else np.zeros(shape, arrays[0].dtype)
    for row, (place, array) in enumerate(zip(places, arrays, strict=True)):
        padded[row, place] = array
    return padded


def _place_escapes(
    windows: Sequence[Window], heads: Sequence[PackedHead], length: int
) -> dict[str, npt.NDArray[Any]]:
    """Return the escapes of all windows, and where they stand in the flattened [B, L, K]."""
    places = []
    for row, (window, head) in enumerate(zip(windows, heads, strict=True)):
        assert head.steps_TH is not None
        num_entries = head.id_planes[0].shape[1]
        position, entry = np.nonzero(split_halves(head.steps_TH, num_entries) == ESCAPE)
        at = window.target_positions_T[position].astype(np.int64) + row * length
        places.append(at * num_entries + entry)
    return {
        "escape_index": np.concatenate(places),
        "escape_value": np.concatenate([head.escapes_E for head in heads]),
    }


def _plane_names(batch: Batch) -> list[str]:
    return sorted(name for name in batch if name.startswith("id_plane_"))


def _common_schema(windows: Sequence[Window]) -> TargetSchema:
    """Return what the windows' targets are."""
    schemas = {window.packed.schema for window in windows}
    if len(schemas) != 1:
        raise InputError(
            "collate",
            expected="one or more windows of the same schema",
            found=f"{len(windows)} windows of {len(schemas)} schemas",
            next_step="Collate windows of one store.",
        )
    schema = schemas.pop()
    others = (schema.samples, schema.features, schema.label_ids, schema.encoder_input)
    if schema.head is None or any(others) or schema.predicts != "next_token":
        raise InputError(
            "collate",
            expected="targets of the next token, with a head of kept entries",
            found=schema.describe(),
            next_step="Collate these windows by a function of your own, from window.targets.",
        )
    return schema


def _given(values: Iterable[Given | None]) -> list[Given]:
    """Return the values of a part that every window has."""
    given = []
    for value in values:
        assert value is not None
        given.append(value)
    return given
