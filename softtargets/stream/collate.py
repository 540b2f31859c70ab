"""Windows to batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from softtargets.errors import InputError
from softtargets.kinds import LAST_HIDDEN, FeatureSchema, TargetSchema
from softtargets.stream.batch import IGNORE_INDEX, Batch
from softtargets.targets import Int32
from softtargets.window import Window

Given = TypeVar("Given")


def collate(windows: Sequence[Window]) -> Batch:
    """Return windows as one batch; the `collate_fn` for a DataLoader.

    Raises:
        InputError: there are no windows, they come from stores of different schemas, or their
            targets are not those of the next token with a head or samples, or have other features
            than the last hidden states.
    """
    schema = _common_schema(windows)
    length = max(len(window) for window in windows)
    packed = [window.packed for window in windows]
    place_tokens = partial(_place, [slice(len(window)) for window in windows], length)
    place = partial(_place, [_target_places(window) for window in windows], length)
    targets = {"target_mask": place([window.mask_T for window in windows])}
    if schema.label_logits:
        targets["label_logit"] = place(_given(one.label_logit_T for one in packed))
        targets["label_rank"] = place(_given(one.label_rank_T for one in packed))
    if schema.head is not None:
        targets |= _place_heads(windows, place)
    else:
        targets["logsumexp"] = place(_given(one.logsumexp_TG for one in packed))
    numbers: dict[str, Any] = {}
    if schema.features:
        targets["hidden_states"] = place([one.features[LAST_HIDDEN].values_RD for one in packed])
        numbers["output_head"] = schema.output_head
    if schema.samples is not None:
        targets |= _place_samples(windows, length)
        numbers["num_draws"] = schema.samples.num_draws
        numbers["sample_temperature"] = schema.samples.temperature
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
        {name: _tensor(array) for name, array in (inputs | targets).items()}
        | {
            "window_id": [window.window_id for window in windows],
            "temperatures": schema.temperatures,
            "step": schema.head.step if schema.head is not None else None,
            "vocab_size": schema.vocab_size,
            **numbers,
        }
    )


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """Return a tensor of the same memory; upper halves of float32 numbers are bfloat16."""
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


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
    padded = np.empty((len(arrays), length, *arrays[0].shape[1:]), arrays[0].dtype)
    for row, (place, array) in enumerate(zip(places, arrays, strict=True)):
        if isinstance(place, slice):
            padded[row, place.stop :] = fill
        else:
            padded[row] = fill
        padded[row, place] = array
    return padded


def _place_heads(
    windows: Sequence[Window],
    place: Callable[..., npt.NDArray[Any]],
) -> dict[str, npt.NDArray[Any]]:
    """Return the heads of all windows as they are stored, padded."""
    packed = [window.packed for window in windows]
    heads = _given(one.head for one in packed)
    targets = {
        "num_entries": place([head.num_entries_T for head in heads]),
        "top_logit": place(_given(one.top_logit_T for one in packed)),
        "tail_mass": place(_given(one.tail_mass_TG for one in packed), fill=1),
    }
    for plane in range(len(heads[0].id_planes)):
        targets[f"id_plane_{plane}"] = place([head.id_planes[plane] for head in heads])
    if heads[0].step is None:
        return targets | {"logits": place(_given(head.logits_TK for head in heads))}
    steps_BLH = place(_given(head.steps_TH for head in heads))
    # In the order in which they are met in the flattened [B, L, K].
    escapes_E = np.concatenate([head.escapes_E for head in heads])
    return targets | {"steps": steps_BLH, "escapes": escapes_E}


def _place_samples(windows: Sequence[Window], length: int) -> dict[str, npt.NDArray[Any]]:
    """Return the samples of all windows [B, L, S], padded with counts of 0."""
    samples = _given(window.targets.samples for window in windows)
    width = max(int(one.num_samples_T.max(initial=1)) for one in samples)
    shape = (len(windows), length, width)
    targets: dict[str, npt.NDArray[Any]] = {
        "sample_ids": np.zeros(shape, np.int32),
        "sample_counts": np.zeros(shape, np.int32),
    }
    has_logits = samples[0].logits_S is not None
    if has_logits:
        targets["sample_logits"] = np.zeros(shape, np.float32)
    for row, (window, own) in enumerate(zip(windows, samples, strict=True)):
        starts_T = np.cumsum(own.num_samples_T) - own.num_samples_T
        at_S = np.repeat(window.target_positions_T, own.num_samples_T)
        rank_S = np.arange(len(own.ids_S)) - np.repeat(starts_T, own.num_samples_T)
        targets["sample_ids"][row, at_S, rank_S] = own.ids_S
        targets["sample_counts"][row, at_S, rank_S] = own.counts_S
        if own.logits_S is not None:
            targets["sample_logits"][row, at_S, rank_S] = own.logits_S
    return targets


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
    head, samples = schema.head, schema.samples
    is_whole = head is not None if samples is None else (samples.origin == "tail") == bool(head)
    others = (not _is_last_hidden(schema.features), schema.label_ids, schema.encoder_input)
    if not is_whole or any(others) or schema.predicts != "next_token":
        raise InputError(
            "collate",
            expected="targets of the next token: a head, samples, or both, samples of its tail, "
            f"and no feature but {LAST_HIDDEN}",
            found=schema.describe(),
            next_step="Collate these windows by a function of your own, from window.targets.",
        )
    return schema


def _is_last_hidden(features: Sequence[FeatureSchema]) -> bool:
    """Return whether there is nothing among the features that a batch would not hold."""
    found = [(one.name, one.rows) for one in features if one.dtype != "int8"]
    return not features or (len(features) == 1 and found == [(LAST_HIDDEN, "targets")])


def _given(values: Iterable[Given | None]) -> list[Given]:
    """Return the values of a part that every window has."""
    given = []
    for value in values:
        assert value is not None
        given.append(value)
    return given
