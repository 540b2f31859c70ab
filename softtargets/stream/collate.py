"""Windows to batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from softtargets.errors import InputError
from softtargets.store.row import Row, row_of
from softtargets.stream.attention import attention_mask
from softtargets.stream.batch import Batch, schema_text
from softtargets.stream.common_targets import common_targets, first_difference
from softtargets.stream.frame import Frame
from softtargets.stream.target_tensors import Place, TargetTensor, target_tensors
from softtargets.stream.world import collator_error
from softtargets.targets import Array, TargetSchema
from softtargets.window import Window


def collate(windows: Sequence[Window]) -> Batch:
    """Return windows as one batch; the `collate_fn` for a DataLoader.

    Raises:
        InputError: there are no windows, they come from stores that `Mixture` would not mix, or
            batches do not hold their targets. They hold those of a vocabulary whose labels are
            known, with a head or samples, and class logits about windows or tokens; and features
            of tokens or targets.
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
    frame = Frame(rows, schema.convention, schema.pad_token_id)
    inputs = frame.inputs()
    target_mask = frame.place_targets("mask")
    labels = frame.labels(inputs["input_ids"], target_mask)
    num_tokens = torch.tensor(frame.num_tokens)
    num_segments = max(len(row.cell("segment_lengths")) for row in rows)
    return Batch(
        {name: _tensor(array) for name, array in {**inputs, "labels": labels}.items()}
        | {"attention_mask": attention_mask(num_tokens, frame.shape[1], num_segments)}
        | {"num_tokens": num_tokens}
        | {"target_mask": _tensor(target_mask)}
        | {one.name: _tensor(_PLACED[one.place](frame, one)) for one in target_tensors(schema)}
        | {
            "window_id": [row.window_id for row in rows],
            "schema": schema_text(schema),
            "temperatures": schema.temperatures,
            "step": schema.entries.step if schema.entries is not None else None,
            "vocab_size": schema.vocab_size,
            "num_targets": int(target_mask.sum()),
            "num_segments": num_segments,
        }
        | _numbers(schema)
    )


_PLACED: dict[Place, Callable[[Frame, TargetTensor], Array]] = {
    "targets": lambda frame, one: frame.place_targets(one.columns[0], one.fill),
    "tokens": lambda frame, one: frame.place_tokens(one.columns[0]),
    "grid": lambda frame, one: frame.place_grid(one.columns, one.fill),
    "row": lambda frame, one: frame.pad(one.columns[0]),
    "draws": lambda frame, one: frame.place_lists(one.columns[0], "num_samples"),
    "entries": lambda frame, one: frame.place_lists(one.columns[0], "num_entries"),
}


def _numbers(schema: TargetSchema) -> dict[str, Any]:
    """Return what a batch knows beside its arrays where the store has hidden states or samples."""
    numbers: dict[str, Any] = {}
    if schema.features:
        numbers["output_head"] = schema.output_head
    if schema.draws is not None:
        numbers["num_draws"] = schema.draws.num_draws
        numbers["sample_temperature"] = schema.draws.temperature
    return numbers


def _tensor(array: Array) -> torch.Tensor:
    """Return a tensor of the same memory; upper halves of float32 numbers are bfloat16."""
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _check_schema(schema: TargetSchema) -> None:
    """Check that batches hold such targets."""
    entries, draws = schema.entries, schema.draws
    is_whole = bool(entries) if draws is None else (draws.origin == "tail") == bool(entries)
    is_known = is_whole and schema.has_labels
    if schema.num_classes:
        is_known = not schema.convention.labels_are_inputs
    has_others = any(one.rows == "window" for one in schema.features)
    if not is_known or has_others:
        raise InputError(
            "collate",
            expected="targets with labels: a head, samples, or both, samples of its tail, "
            "or class logits of windows or tokens; and no feature of whole windows",
            found=schema.describe(),
            next_step="Collate these windows by a function of your own, from window.targets.",
        )


def _refuse(what: str, *_: Any, **__: Any) -> NoReturn:
    raise collator_error("default_collate of torch", what)


# As torch documents for types of one's own; by itself it would name no way out.
default_collate_fn_map[Window] = partial(_refuse, "windows")
default_collate_fn_map[Batch] = partial(_refuse, "finished batches")
