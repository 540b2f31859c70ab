"""In which form a store keeps what a selection keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from softtargets.capture.keep.selection import Selection, Threshold, Values, max_entries
from softtargets.targets import DrawsSchema, EntriesSchema

SAMPLE_STEP = 1 / 64
"""Width of a step of drawn ids' logits in nats; see `Draws`."""
GRID_STEP = 1 / 64
"""Width of a step of the log-odds of tail masses in nats."""
LABEL_STEP = 1 / 16
"""Width of a step of the label's logit in nats."""


def schema_parts(
    selection: Selection,
    values: Values,
    temperatures: Sequence[float],
    vocab_size: int,
    *,
    label_logits: bool = False,
) -> dict[str, Any]:
    """Return what of a store's schema follows from the selection.

    The logits of drawn ids are kept when the grid has another temperature than the draws': their
    weights there follow from them.
    """
    parts: dict[str, Any] = {}
    is_listed = isinstance(selection, Threshold)
    in_steps = values == "steps"
    num_entries = max_entries(selection, vocab_size)
    if num_entries:
        parts["head"] = EntriesSchema(
            max_entries=num_entries,
            values=values,
            form="lists" if is_listed else "planes",
            top_logit=not (is_listed and in_steps),
        )
    if selection.draws is not None:
        parts["samples"] = DrawsSchema(
            num_draws=selection.draws.num,
            origin="tail" if num_entries else "all",
            temperature=selection.draws.temperature,
            values=values if len(temperatures) > 1 else "none",
            step=SAMPLE_STEP,
            design="threshold" if is_listed else selection.draws.design,
        )
    if is_listed and in_steps:
        parts["grid_step"] = GRID_STEP
        parts["label_step"] = LABEL_STEP if label_logits else None
    return parts
