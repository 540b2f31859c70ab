"""Windows in the plain form that other people's trainers read: a value where it is looked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from softtargets.layouts.lists import nested_lists
from softtargets.store.codec import encode_tokens
from softtargets.store.schema import grid_columns
from softtargets.targets import Float32, Int32, Samples, SoftTargets, TargetSchema, temperature_text
from softtargets.window import Window


def plain_table(windows: Sequence[Window], schema: TargetSchema) -> pa.Table:
    """Return windows as columns of numbers and nested lists.

    Those that say what was scored, then what there is of these, for each position: `ids` and, for
    each temperature of the grid, `logprobs_t<T>` (lists of lists) with `tail_mass_t<T>`, beside
    the `top_logit` that the logits follow from, or `logits` where the grid is empty; `sample_ids`,
    `sample_counts` and `sample_logits`;
    `logsumexp_t<T>`; `label_logit` and `label_rank`; `class_logits` and `feature_<name>` (lists of
    vectors). Entries past a position's count are left out.
    """
    columns = encode_tokens(windows)
    targets = [window.targets for window in windows]
    if schema.head is not None:
        columns |= _entry_columns(targets, schema)
    for index, name in enumerate(grid_columns(schema)):
        grids = [one.tail_mass_TG if schema.head else one.logsumexp_TG for one in targets]
        columns[name] = pa.array([grid[:, index] for grid in grids if grid is not None])
    if schema.samples is not None:
        columns |= _sample_columns([one.samples for one in targets if one.samples is not None])
    if schema.label_logits:
        columns["label_logit"] = pa.array([one.label_logit_T for one in targets])
        columns["label_rank"] = pa.array([one.label_rank_T for one in targets])
    if schema.num_classes:
        logits = [one.class_logits_TC for one in targets if one.class_logits_TC is not None]
        columns["class_logits"] = _vectors(logits)
    for feature in schema.features:
        columns[f"feature_{feature.name}"] = _vectors(
            [one.features[feature.name] for one in targets]
        )
    return pa.table(columns)


def _entry_columns(targets: Sequence[SoftTargets], schema: TargetSchema) -> dict[str, pa.Array]:
    counts = [one.num_entries_T for one in targets]
    kept = [np.isfinite(one.logits_TK) for one in targets]

    def entries(arrays: Iterable[Float32 | Int32]) -> pa.Array:
        return nested_lists([array[mask] for array, mask in zip(arrays, kept, strict=True)], counts)

    columns = {"ids": entries(one.ids_TK for one in targets)}
    for temperature in schema.temperatures:
        columns[f"logprobs_t{temperature_text(temperature)}"] = entries(
            one.logprobs_TK(temperature) for one in targets
        )
    if schema.temperatures:
        columns["top_logit"] = pa.array([one.logits_TK[:, 0] for one in targets])
    else:
        columns["logits"] = entries(one.logits_TK for one in targets)
    return columns


def _sample_columns(samples: Sequence[Samples]) -> dict[str, pa.Array]:
    counts = [one.num_samples_T for one in samples]
    columns = {
        "sample_ids": nested_lists([one.ids_S for one in samples], counts),
        "sample_counts": nested_lists([one.counts_S for one in samples], counts),
    }
    logits = [one.logits_S for one in samples if one.logits_S is not None]
    if logits:
        columns["sample_logits"] = nested_lists(logits, counts)
    return columns


def _vectors(arrays: Sequence[Float32]) -> pa.Array:
    """Return a list of lists: for each window, its rows."""
    return nested_lists(
        [array.ravel() for array in arrays],
        [np.full(len(array), array.shape[1], np.int32) for array in arrays],
    )
