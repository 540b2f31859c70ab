"""Windows to batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from softtargets.errors import InputError
from softtargets.kinds import LAST_HIDDEN, FeatureSchema, TargetSchema, feature_columns
from softtargets.packing.features import STORED_AS
from softtargets.store.codec import Row, row_of
from softtargets.store.schema import grid_columns, id_columns
from softtargets.stream.attention import attention_mask
from softtargets.stream.batch import IGNORE_INDEX, Batch
from softtargets.stream.common_targets import common_targets, first_difference
from softtargets.stream.world import collator_error
from softtargets.targets import Bool, Int32
from softtargets.window import Window

Array = npt.NDArray[Any]


def collate(windows: Sequence[Window]) -> Batch:
    """Return windows as one batch; the `collate_fn` for a DataLoader.

    Raises:
        InputError: there are no windows, they come from stores that `Mixture` would not mix, or
            their targets are not those of the next token with a head or samples, or have other
            features than the last hidden states.
    """
    schemas = list(dict.fromkeys(window.packed.schema for window in windows))
    if not schemas:
        raise InputError(
            "collate",
            expected="one or more windows",
            found="0 windows",
            next_step="Leave out batches without windows.",
        )
    common = schemas[0]
    for schema in schemas[1:]:
        difference = first_difference(common, schema)
        if difference is not None:
            raise InputError(
                "collate",
                expected=f"{difference.field} {difference.expected!r}, as the first window has",
                found=f"{len(windows)} windows of {len(schemas)} schemas, one with "
                f"{difference.found!r}",
                next_step=difference.next_step,
            )
        common = common_targets(common, schema)
    return collate_rows([row_of(window) for window in windows], common)


def collate_rows(rows: Sequence[Row], schema: TargetSchema) -> Batch:
    """Return rows as one batch.

    Args:
        rows: of a store, or of several.
        schema: what the batch holds of their targets, see `common_targets`.

    Raises:
        InputError: batches do not hold such targets, see `collate`.
    """
    _check_schema(schema)
    frame = _Frame(rows)
    target_mask_BL = frame.place_targets("mask")
    num_tokens = torch.tensor(frame.num_tokens)
    num_segments = max(len(row.cell("segment_lengths")) for row in rows)
    return Batch(
        {name: _tensor(array) for name, array in frame.inputs(target_mask_BL).items()}
        | {"attention_mask": attention_mask(num_tokens, frame.shape[1], num_segments)}
        | {"num_tokens": num_tokens}
        | {"target_mask": _tensor(target_mask_BL)}
        | {name: _tensor(array) for name, array in _targets(frame, schema).items()}
        | {
            "window_id": [row.window_id for row in rows],
            "temperatures": schema.temperatures,
            "step": schema.head.step if schema.head is not None else None,
            "vocab_size": schema.vocab_size,
            "num_targets": int(target_mask_BL.sum()),
            "num_segments": num_segments,
        }
        | _numbers(schema)
    )


class _Frame:
    """B rows, and where their cells go in arrays [B, L, ...] as long as the longest of them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.num_tokens = [len(row) for row in rows]
        self.shape = len(rows), max(self.num_tokens)
        self._bounds = [row.bounds("mask") for row in rows]
        """Where the cells of columns of targets begin and end."""
        lengths = {stop - start for start, stop in self._bounds}
        self._are_listed = ["target_positions" in row.columns for row in rows]
        """Whose targets are not simply the first positions; a mixture has rows of both kinds."""
        self._same_length = None if any(self._are_listed) or len(lengths) > 1 else lengths.pop()

    @property
    def target_places_T(self) -> Int32:
        """Return where the targets of all rows stand in a flattened [B, L]."""
        places = []
        rows = zip(self.rows, self._bounds, self._are_listed, strict=True)
        for number, (row, (start, stop), is_listed) in enumerate(rows):
            own = row.cell("target_positions") if is_listed else np.arange(stop - start)
            places.append(own + number * self.shape[1])
        return np.concatenate(places)

    def joined(self, name: str) -> Array:
        """Return the cells of a column, one after the other."""
        return np.concatenate([row.cell(name) for row in self.rows])

    def pad(self, name: str) -> Array:
        """Return the cells of a column, each padded to the longest; trainers may slice rows."""
        cells = [row.cell(name) for row in self.rows]
        padded = np.zeros((len(cells), max(len(cell) for cell in cells)), cells[0].dtype)
        for own, cell in zip(padded, cells, strict=True):
            own[: len(cell)] = cell
        return padded

    def place_targets(self, name: str, fill: float = 0) -> Array:
        """Return a column of targets as [B, L, ...], filled where there is none."""
        first = self.rows[0].columns[name]
        padded = np.empty((*self.shape, *first.shape[1:]), first.dtype)
        self._place(padded, name, fill)
        return padded

    def place_grid(self, names: Sequence[str], fill: float = 0) -> Array:
        """Return a column of targets for each temperature as [B, L, G]."""
        padded = np.empty((*self.shape, len(names)), np.float32)
        for index, name in enumerate(names):
            self._place(padded[..., index], name, fill)
        return padded

    def _place(self, padded: Array, name: str, fill: float) -> None:
        cells = zip(self.rows, self._bounds, self._are_listed, strict=True)
        if self._same_length is not None:
            # The usual case, in one call instead of several for every row.
            own = [row.columns[name][None, start:stop] for row, (start, stop), _ in cells]
            np.concatenate(own, out=padded[:, : self._same_length])
            padded[:, self._same_length :] = fill
            return
        padded[:] = fill
        for own_L, (row, (start, stop), is_listed) in zip(padded, cells, strict=True):
            cell_T = row.columns[name][start:stop]
            if is_listed:
                own_L[row.cell("target_positions")] = cell_T
            else:
                own_L[: len(cell_T)] = cell_T

    def inputs(self, target_mask_BL: Bool) -> dict[str, Array]:
        """Return what the student reads, and its labels."""
        ids_BL = np.zeros(self.shape, np.int64)
        for own, row, num_tokens in zip(ids_BL, self.rows, self.num_tokens, strict=True):
            own[:num_tokens] = row.cell("input_ids")
        at_L = np.arange(self.shape[1])
        is_token_BL = at_L < np.array(self.num_tokens)[:, None]
        segment_ids_BL = np.zeros(self.shape, np.int64)
        position_ids_BL = np.where(is_token_BL, at_L, 0)
        for number, row in enumerate(self.rows):
            lengths_S = row.cell("segment_lengths")
            if len(lengths_S) > 1:
                here = number, slice(self.num_tokens[number])
                starts_S = np.cumsum(lengths_S) - lengths_S
                segment_ids_BL[here] = np.repeat(np.arange(len(lengths_S)), lengths_S)
                position_ids_BL[here] -= np.repeat(starts_S, lengths_S)
        labels_BL = np.full(self.shape, IGNORE_INDEX)
        np.copyto(labels_BL[:, 1:], ids_BL[:, 1:], where=target_mask_BL[:, :-1])
        return {
            "input_ids": ids_BL,
            "labels": labels_BL,
            "segment_ids": segment_ids_BL,
            "position_ids": position_ids_BL,
        }


def _targets(frame: _Frame, schema: TargetSchema) -> dict[str, Array]:
    """Return the targets as they are stored, padded."""
    head, grid = schema.head, grid_columns(schema)
    targets: dict[str, Array] = {}
    if schema.label_logits:
        targets |= {name: frame.place_targets(name) for name in ("label_logit", "label_rank")}
    if head is None:
        targets["logsumexp"] = frame.place_grid(grid)
    else:
        targets["tail_mass"] = frame.place_grid(grid, fill=1)
        names = ("num_entries", "top_logit", *id_columns(schema))
        targets |= {name: frame.place_targets(name) for name in names}
        if head.step is None:
            targets["logits"] = frame.place_targets("logits").view("<f4")
        else:
            targets["steps"] = frame.place_targets("steps")
            targets["escapes"] = frame.pad("escapes")
    if schema.features:
        name = feature_columns(schema.features[0])[0]
        stored = frame.place_targets(name).view(STORED_AS[schema.features[0].dtype])
        targets["hidden_states"] = stored
    if schema.samples is not None:
        targets |= _samples(frame)
    return targets


def _samples(frame: _Frame) -> dict[str, Array]:
    """Return the samples [B, L, S], padded with counts of 0."""
    at_T = frame.target_places_T
    num_samples_T = frame.joined("num_samples")
    width = int(num_samples_T.max(initial=1))
    # A position's samples stand one after the other in its row of a flattened [B, L, S].
    shifts_T = at_T * width - (np.cumsum(num_samples_T) - num_samples_T)
    at_S = np.arange(num_samples_T.sum()) + np.repeat(shifts_T, num_samples_T)
    placed = {}
    for name in ("sample_ids", "sample_counts", "sample_logits"):
        if name in frame.rows[0].columns:
            array_S = frame.joined(name)
            placed[name] = np.zeros((*frame.shape, width), array_S.dtype)
            placed[name].reshape(-1)[at_S] = array_S
    return placed


def _numbers(schema: TargetSchema) -> dict[str, Any]:
    """Return what a batch knows beside its arrays where the store has hidden states or samples."""
    numbers: dict[str, Any] = {}
    if schema.features:
        numbers["output_head"] = schema.output_head
    if schema.samples is not None:
        numbers["num_draws"] = schema.samples.num_draws
        numbers["sample_temperature"] = schema.samples.temperature
    return numbers


def _tensor(array: Array) -> torch.Tensor:
    """Return a tensor of the same memory; upper halves of float32 numbers are bfloat16."""
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _check_schema(schema: TargetSchema) -> None:
    """Check that batches hold such targets."""
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


def _refuse_windows(*_: Any, **__: Any) -> NoReturn:
    raise collator_error("default_collate of torch", "windows")


def _refuse_batches(*_: Any, **__: Any) -> NoReturn:
    raise collator_error("default_collate of torch", "finished batches")


# As torch documents for types of one's own; by itself it would name no way out.
default_collate_fn_map[Window] = _refuse_windows
default_collate_fn_map[Batch] = _refuse_batches


def _is_last_hidden(features: Sequence[FeatureSchema]) -> bool:
    """Return whether there is nothing among the features that a batch would not hold."""
    found = [(one.name, one.rows) for one in features if one.dtype != "int8"]
    return not features or (len(features) == 1 and found == [(LAST_HIDDEN, "targets")])
